"""Writes encoded documents as shards: a Parquet file of packed rows, and one of where each document went.

A caller with encoded documents makes a whole shard set in one call (data_prep/shards/assemble.py):

    form = shard_format(load_encoder(tokenizer), sequence_length=2048, policy="best_fit",
                        row_group=256, begin_token=False, has_loss_mask=True)
    manifest = build_shard_set(folder, documents, form, window=4096, source="dialogues", split="train",
                               tokenizer=tokenizer, settings={...}, inputs={"input name": "hash"})

where `documents` is any iterable of EncodedDocument, read once. A `ShardWriter` writes one shard:

    with ShardWriter(folder / "train.parquet", folder / "train.documents.parquet", form, window) as shard:
        shard.add(EncodedDocument(id="pmid:1", tokens=ids, source="pubmed", bytes=812, metadata={...}))
    shard.counts

`add_batch` takes documents as columns (data_prep/shards/encoded.py), which is how they are written: nothing
in here is done document by document but the choice of rows. The bytes do not depend on the batches.

`tokens` is everything that shall stand in the shard, begin and end tokens included. `loss_mask`, needed
exactly where the form says so, has one bool a token: True where the token is predicted and trained on;
padding is always False. No documents, no files. Memory: one window of documents (at most WINDOW_TOKENS
tokens and one document more), a row group, and one table row for each document.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.shards.encoded import EncodedBatch, EncodedDocument
from data_prep.shards.packing import best_fit, concat, without_emptiest_row
from data_prep.shards.parquet_writer import COMPRESSION, ParquetFileWriter
from data_prep.shards.rows import rows_table
from data_prep.shards.schema import ShardFormat
from data_prep.shards.window import empty_window

__all__ = ["EncodedBatch", "EncodedDocument", "ShardCounts", "ShardWriter"]

WINDOW_TOKENS = 1 << 24  # 64 MB as four-byte ids
POLICIES = {"best_fit": best_fit, "concat": concat}


@dataclass
class ShardCounts:
    """What is in a shard: `tokens` leaves padding out, `cuts` are seams inside documents.

    `trained_tokens` are those whose loss mask is True, all where there is no mask.
    """

    documents: int = 0
    rows: int = 0
    tokens: int = 0
    padding: int = 0
    cuts: int = 0
    trained_tokens: int = 0
    bytes: int = 0

    def as_json(self) -> dict[str, int]:
        return asdict(self)


class ShardWriter:
    """Packs documents window by window into one shard; see the module's text."""

    def __init__(self, shard: Path, documents: Path, form: ShardFormat, window: int):
        self.counts = ShardCounts()
        self._shard, self._documents = shard, documents
        self._form, self._window = form, window
        self._held_back = empty_window()
        self._batches: list[EncodedBatch] = []
        self._waiting = 0  # documents, those held back included
        self._waiting_tokens = 0
        self._rows: list[pa.Table] = []
        self._listed: list[pa.Table] = []
        self._file: ParquetFileWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is None:
            self._finish()

    def add(self, document: EncodedDocument) -> None:
        """Take one document; raises DataError where it does not fit the form."""
        self.add_batch(EncodedBatch.of([document]))

    def add_batch(self, batch: EncodedBatch) -> None:
        """Take documents; raises DataError naming the first that does not fit the form."""
        batch.check(self._form)
        begin = 0
        while begin < len(batch):
            end = begin + self._fitting(batch, begin)
            part = batch.slice(begin, end)
            self._batches.append(part)
            mask = part.loss_mask
            self.counts.trained_tokens += len(part.tokens) if mask is None else int(mask.sum())
            self._waiting += len(part)
            self._waiting_tokens += len(part.tokens)
            if self._waiting >= self._window or self._waiting_tokens >= WINDOW_TOKENS:
                self._pack(last=False)
            begin = end

    def _fitting(self, batch: EncodedBatch, begin: int) -> int:
        """How many documents from `begin` on the window still takes, at least one."""
        tokens = batch.starts[begin + 1 :] - batch.starts[begin]
        by_tokens = int(np.searchsorted(tokens, WINDOW_TOKENS - self._waiting_tokens)) + 1
        return max(1, min(len(batch) - begin, self._window - self._waiting, by_tokens))

    def _finish(self) -> None:
        self._pack(last=True)
        self._write_row_groups(last=True)
        if self._file is None:
            return
        self._file.close()
        documents = pa.concat_tables(self._listed).sort_by("id").combine_chunks()
        pq.write_table(documents, self._documents, **COMPRESSION)

    def _pack(self, last: bool) -> None:
        if not self._waiting:
            return
        window = self._held_back.extended(self._batches)
        pieces = POLICIES[self._form.policy](window.batch.lengths, self._form.sequence_length)
        held_back = np.zeros(0, np.int64)
        if not last:
            # best_fit may fill that row better with documents to come; concat goes on in it.
            pieces, held_back = without_emptiest_row(pieces, self._form.sequence_length)
        if pieces.rows:
            self._rows.append(rows_table(self._form, window.batch, window.done, pieces))
        packed = window.packed(pieces, self.counts.rows)
        self._list(packed.listed(np.delete(np.arange(len(window)), held_back)))
        self._held_back = packed.kept(held_back, window)
        self._batches = []
        self._waiting = len(held_back)
        self._waiting_tokens = len(self._held_back.batch.tokens)
        filled = int(pieces.length.sum())
        self.counts.rows += pieces.rows
        self.counts.tokens += filled
        self.counts.padding += pieces.rows * self._form.sequence_length - filled
        self._write_row_groups(last=False)

    def _list(self, documents: pa.Table) -> None:
        self._listed.append(documents)
        self.counts.documents += len(documents)
        self.counts.bytes += pc.sum(documents["bytes"]).as_py() or 0
        self.counts.cuts += len(documents["rows"].combine_chunks().values) - len(documents)

    def _write_row_groups(self, last: bool) -> None:
        """Write the whole row groups there are, and at the end what is left."""
        size = self._form.row_group
        waiting = sum(table.num_rows for table in self._rows)
        ready = waiting if last else waiting - waiting % size
        if not ready:
            return
        rows = pa.concat_tables(self._rows)
        if self._file is None:
            self._file = ParquetFileWriter(
                self._shard, rows.schema, self._form.encodings(), self._form.file_metadata()
            )
        for begin in range(0, ready, size):
            group = rows.slice(begin, min(size, ready - begin))
            self._file.write(group.combine_chunks())
        self._rows = [rows.slice(ready)] if ready < waiting else []
