"""A shard set as MosaicML's MDS, row by row, and back.

A sample is a row: `tokens`, which LLM Foundry's StreamingTextDataset reads as they are; `documents`, JSON of
the ids, offsets and lengths of the pieces in it; and `loss_mask` (0 or 1), where the set has one.
documents.parquet beside index.json keeps what the set's says. The way back gives the same rows. MDS of
packed tokens from elsewhere is cut into documents at the end tokens; the rows are taken as one stream.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.convert.incoming import Incoming
from data_prep.convert.mds_files import MdsShard, MdsWriter, decode_array
from data_prep.convert.origin import OriginWriter
from data_prep.errors import DataError
from data_prep.progress import followed
from data_prep.shards.counts import ShardCounts
from data_prep.shards.encoded import EncodedBatch
from data_prep.shards.manifest import DOCUMENTS_FILE
from data_prep.shards.packing.pieces import Pieces
from data_prep.shards.packing.rows import rows_table
from data_prep.shards.parquet_writer import ParquetFileWriter
from data_prep.shards.reader import ShardSet
from data_prep.shards.schema import DOCUMENTS, UINT16_VOCABULARY, ShardFormat


def write_mds(shards: ShardSet, folder: Path) -> None:
    """Write the set into `folder`, which exists."""
    manifest = shards.manifest
    length = manifest.sequence_length
    # int32, not uint32, is what LLM Foundry writes; both are read.
    kind = np.dtype("<u2" if manifest.vocabulary_size <= UINT16_VOCABULARY else "<i4")
    columns: dict[str, tuple[str, int | None]] = {
        "tokens": (f"ndarray:{kind.name}:{length}", length * kind.itemsize),
        "documents": ("json", None),
    }
    if manifest.has_loss_mask:
        columns["loss_mask"] = (f"ndarray:uint8:{length}", length)
    total = (len(shards.row_groups), int(shards.row_groups.sum()) * length * kind.itemsize)
    groups = range(len(shards.row_groups))
    size = manifest.row_group * length * kind.itemsize
    with MdsWriter(folder, columns) as writer:
        for group in followed("convert", groups, total, lambda _: size):
            for sample in _samples(shards, group, kind):
                writer.write(sample)
    with (
        OriginWriter(folder / DOCUMENTS_FILE, DOCUMENTS, manifest) as listed,
        pq.ParquetFile(shards.checked(DOCUMENTS_FILE)) as file,
    ):
        for batch in file.iter_batches():
            listed.write(pa.Table.from_batches([batch]))


def _samples(shards: ShardSet, group: int, kind: np.dtype) -> Iterator[dict[str, bytes]]:
    rows, ids = shards.read(group), shards.document_ids(group)
    offsets, lengths = rows.offsets.tolist(), rows.lengths.tolist()
    starts = rows.starts.tolist()
    for row, names in enumerate(ids):
        here = slice(starts[row], starts[row + 1])
        pieces = {"ids": names, "offsets": offsets[here], "lengths": lengths[here]}
        sample = {
            "tokens": rows.tokens[row].astype(kind, copy=False).tobytes(),
            "documents": orjson.dumps(pieces),
        }
        if rows.loss_mask is not None:
            sample["loss_mask"] = rows.loss_mask[row].astype(np.uint8).tobytes()
        yield sample


def columns_of(shards: Sequence[MdsShard], folder: Path) -> dict[str, str]:
    """The columns that all shards have; raises DataError where these hold no tokens."""
    columns = shards[0].columns
    if any(shard.columns != columns for shard in shards):
        raise DataError(f"{folder}: its shards differ in their columns; convert them one by one")
    if "tokens" in columns:
        return columns
    if "text" in columns:
        raise DataError(
            f"{folder}: holds text, not tokens; write its texts as JSON lines, and name the file in a corpus "
            "config as a source of `format: text`: `python -m data_prep all` packs it"
        )
    raise DataError(f"{folder}: no column `tokens`, only {', '.join(columns)}")


def write_rows(
    shards: Sequence[MdsShard], columns: dict[str, str], form: ShardFormat, path: Path
) -> ShardCounts:
    """Write the rows as they are as one shard, and count them; their documents are not counted.

    Raises DataError naming the file where a row is not of the form.
    """
    counts = ShardCounts()
    schema = form.arrow_schema()
    writer = ParquetFileWriter(path, schema, form.encodings(), form.file_metadata())

    def write(rows: list[dict[str, Any]]) -> None:
        table = _table(rows, form)
        writer.write(table)
        counts.add_rows(table, form)

    rows: list[dict[str, Any]] = []
    total = (len(shards), sum(shard.raw_bytes for shard in shards))
    for shard in followed("convert", shards, total, lambda shard: shard.raw_bytes):
        for sample in shard.samples():
            rows.append(_row(shard, sample, columns, form))
            if len(rows) == form.row_group:
                write(rows)
                rows = []
    if rows:
        write(rows)
    writer.close()
    return counts


def _row(
    shard: MdsShard, sample: dict[str, memoryview], columns: dict[str, str], form: ShardFormat
) -> dict[str, Any]:
    try:
        row: dict[str, Any] = orjson.loads(sample["documents"])
        row["tokens"] = decode_array(sample["tokens"], columns["tokens"])
        if form.has_loss_mask:
            row["loss_mask"] = decode_array(sample["loss_mask"], columns["loss_mask"]) != 0
        ids, offsets, lengths = row["ids"], row["offsets"], row["lengths"]
        filled = sum(lengths)
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"{shard.path}: a row is not as `convert --to mds` writes it ({error}); convert the set again"
        ) from error
    whole = len(ids) == len(offsets) == len(lengths) and 0 < filled <= form.sequence_length
    if not whole or len(row["tokens"]) != form.sequence_length:
        raise DataError(
            f"{shard.path}: a row has {len(row['tokens'])} tokens, of which {filled} are of documents; "
            f"expected {form.sequence_length}, as its set had: convert the set again"
        )
    row["tokens"], row["filled"] = row["tokens"][:filled], filled
    if form.has_loss_mask:
        row["loss_mask"] = row["loss_mask"][:filled]
    return row


def _table(rows: list[dict[str, Any]], form: ShardFormat) -> pa.Table:
    tokens = np.concatenate([row["tokens"] for row in rows])
    mask = np.concatenate([row["loss_mask"] for row in rows]) if form.has_loss_mask else None
    ids = [name for row in rows for name in row["ids"]]
    lengths = np.array([length for row in rows for length in row["lengths"]], np.int64)
    pieces = Pieces(
        document=np.arange(len(ids)),
        offset=np.zeros(len(ids), np.int64),
        length=lengths,
        starts=np.append(0, np.cumsum([len(row["ids"]) for row in rows])),
    )
    # Each piece is given as a document of which the tokens before it stand in earlier rows.
    batch = EncodedBatch(
        pa.table({"id": pa.array(ids, pa.string())}), tokens, np.append(0, np.cumsum(lengths)), mask
    )
    done = np.array([offset for row in rows for offset in row["offsets"]], np.int64)
    return rows_table(form, batch, done, pieces)


def count_documents(path: Path, form: ShardFormat, counts: ShardCounts) -> None:
    """Add what a list of documents says to the counts of their rows."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["bytes", "tokens", "rows"]):
            counts.add_documents(pa.Table.from_batches([batch]), form)


def cut_at_end_tokens(
    shards: Sequence[MdsShard], columns: dict[str, str], incoming: Incoming
) -> Iterator[EncodedBatch]:
    """The documents in rows of packed tokens that do not say where documents begin.

    Pad tokens at the end of a row are left out, where the tokenizer has one that is not the end token.
    """
    encoder = incoming.encoder
    padded = encoder.pad_id != encoder.end_id
    rest = np.zeros(0, np.int64)
    total = (len(shards), sum(shard.raw_bytes for shard in shards))
    for shard in followed("convert", shards, total, lambda shard: shard.raw_bytes):
        rows = [_tokens(shard, sample["tokens"], columns["tokens"]) for sample in shard.samples()]
        if padded:
            rows = [
                row[: int(np.max(np.flatnonzero(row != encoder.pad_id), initial=-1)) + 1]
                for row in rows
            ]
        tokens = np.concatenate([rest, *rows])
        incoming.check(tokens)
        starts = np.append(0, np.flatnonzero(tokens == encoder.end_id) + 1)
        rest = tokens[starts[-1] :]
        yield incoming.batch(tokens[: starts[-1]], starts)
    if len(rest):
        yield incoming.batch(rest, np.array([0, len(rest)]))


def _tokens(shard: MdsShard, value: memoryview, encoding: str) -> np.ndarray:
    try:
        # Of one type: NumPy makes floats of uint64 beside int64.
        return decode_array(value, encoding).astype(np.int64)
    except (IndexError, TypeError, ValueError) as error:
        raise DataError(
            f"{shard.path}: tokens of the encoding {encoding} are not understood ({error}); expected ndarrays "
            "of integers, or bytes of int64"
        ) from error
