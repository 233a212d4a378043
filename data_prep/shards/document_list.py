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
_BATCH = 1 << 16  # documents of a list in memory while they are dealt out, about 10 MB


class DuplicateDocumentError(DataError):
    """Two documents have the same id."""

    def __init__(self, identifier: str):
        super().__init__(
            f"document {identifier!r} is in the set twice; "
            "two input files hold the same record: remove one and run the stages again"
        )
        self.identifier = identifier

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return DuplicateDocumentError, (self.identifier,)


def merge_documents(
    parts: Sequence[tuple[Path, int]], merged: Path, rows_at_once: int = ROWS_AT_ONCE
) -> None:
    """Write `merged` from lists sorted by id, each with the set's row number of its first row.

    Documents are first dealt out to ranges of ids in files of their own, then sorted range by range.
    Raises DuplicateDocumentError where two documents have the same id.
    """
    bounds = _bounds(parts, rows_at_once)
    if not bounds:  # all of them fit in memory
        with pq.ParquetWriter(merged, DOCUMENTS, **COMPRESSION) as writer:
            _write_sorted(pa.concat_tables(_numbered(parts)), writer)
        return
    with tempfile.TemporaryDirectory(dir=merged.parent, prefix=".merge") as temporary:
        ranges = [Path(temporary) / f"{index}.arrow" for index in range(len(bounds) + 1)]
        _deal(parts, bounds, ranges)
        with pq.ParquetWriter(merged, DOCUMENTS, **COMPRESSION) as writer:
            for path in ranges:
                with pa.OSFile(str(path)) as stream:
                    _write_sorted(pa.ipc.open_stream(stream).read_all(), writer)


def _write_sorted(documents: pa.Table, writer: pq.ParquetWriter) -> None:
    if documents.num_rows:
        documents = documents.sort_by("id").combine_chunks()
        _check_unique(documents["id"])
        writer.write_table(documents)


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
        for table in _tables(path, ["id"])
        for identifier in table["id"][::step].to_pylist()
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
    """The lists, a batch at a time, with row numbers of the set instead of their shard's."""
    for path, first_row in parts:
        for table in _tables(path, DOCUMENTS.names):
            rows = table["rows"].combine_chunks()
            begins = pc.subtract(rows.offsets, rows.offsets[0])
            shifted = pa.ListArray.from_arrays(
                begins, pc.add(rows.flatten(), first_row), type=DOCUMENTS.field("rows").type
            )
            yield table.set_column(
                table.schema.get_field_index("rows"), DOCUMENTS.field("rows"), shifted
            )


def _tables(path: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """A list's columns, a batch at a time, in order."""
    schema = pa.schema([DOCUMENTS.field(name) for name in columns])
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH, columns=list(columns)):
            yield pa.Table.from_batches([batch]).cast(schema)


def _check_unique(ids: pa.ChunkedArray) -> None:
    equal = pc.equal(ids[1:], ids[:-1]).to_numpy()
    if equal.any():
        raise DuplicateDocumentError(ids[int(np.argmax(equal))].as_py())
