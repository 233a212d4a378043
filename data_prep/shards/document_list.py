"""Merges the document lists of many shards into one sorted by id, in bounded memory."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.errors import DataError
from data_prep.shards.parquet_writer import COMPRESSION
from data_prep.shards.schema import DOCUMENTS

ROWS_AT_ONCE = 1 << 20  # about 200 MB of documents are sorted in memory
SAMPLE_EVERY = 256  # documents a sampled id stands for when the ranges are chosen


def merge_documents(
    parts: Sequence[tuple[Path, int]], merged: Path, rows_at_once: int = ROWS_AT_ONCE
) -> None:
    """Write `merged` from lists sorted by id, each with the set's row number of its first row.

    Documents are first dealt out to ranges of ids in files of their own, then sorted range by range.
    Raises DataError where two documents have the same id.
    """
    bounds = _bounds(parts, rows_at_once)
    with tempfile.TemporaryDirectory(dir=merged.parent, prefix=".merge") as temporary:
        ranges = [Path(temporary) / f"{index}.arrow" for index in range(len(bounds) + 1)]
        _deal(parts, bounds, ranges)
        with pq.ParquetWriter(merged, DOCUMENTS, **COMPRESSION) as writer:
            for path in ranges:
                with pa.OSFile(str(path)) as stream:
                    table = pa.ipc.open_stream(stream).read_all()
                if table.num_rows:
                    table = table.sort_by("id").combine_chunks()
                    _check_unique(table["id"])
                    writer.write_table(table)


def _bounds(parts: Sequence[tuple[Path, int]], rows_at_once: int) -> list[str]:
    """The ids at which each range but the first begins."""
    total = sum(pq.read_metadata(path).num_rows for path, _ in parts)
    ranges = -(-total // rows_at_once)
    if ranges <= 1:
        return []
    step = min(SAMPLE_EVERY, rows_at_once)
    sample = sorted(
        identifier
        for path, _ in parts
        for identifier in pq.read_table(path, columns=["id"])["id"][::step].to_pylist()
    )
    return [sample[len(sample) * index // ranges] for index in range(1, ranges)]


def _deal(parts: Sequence[tuple[Path, int]], bounds: list[str], ranges: Sequence[Path]) -> None:
    writers = [pa.ipc.new_stream(str(path), DOCUMENTS) for path in ranges]
    for table in _numbered(parts):
        encoded = np.array([bound.encode() for bound in bounds], dtype=object)
        ids = np.array([identifier.encode() for identifier in table["id"].to_pylist()], object)
        cuts = [0, *np.searchsorted(ids, encoded).tolist(), table.num_rows]
        for writer, begin, end in zip(writers, cuts[:-1], cuts[1:], strict=True):
            writer.write_table(table.slice(begin, end - begin))
    for writer in writers:
        writer.close()


def _numbered(parts: Sequence[tuple[Path, int]]) -> Iterator[pa.Table]:
    """Each list with row numbers of the set instead of its shard's."""
    for path, first_row in parts:
        table = pq.read_table(path, schema=DOCUMENTS).combine_chunks()
        rows = table["rows"].combine_chunks()
        shifted = pa.ListArray.from_arrays(
            rows.offsets, pc.add(rows.values, first_row), type=DOCUMENTS.field("rows").type
        )
        yield table.set_column(
            table.schema.get_field_index("rows"), DOCUMENTS.field("rows"), shifted
        )


def _check_unique(ids: pa.ChunkedArray) -> None:
    equal = pc.equal(ids[1:], ids[:-1]).to_numpy()
    if equal.any():
        raise DataError(
            f"document {ids[int(np.argmax(equal))].as_py()!r} is in the set twice; "
            "two input files hold the same record: remove one and run the stages again"
        )
