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
in here is done document by document but the choice of rows and of windows. The bytes do not depend on the batches.

`tokens` is everything that shall stand in the shard, begin and end tokens included. `loss_mask`, needed
exactly where the form says so, has one bool a token: True where the token is predicted and trained on;
padding is always False. No documents, no files. Memory: one window of documents (at most WINDOW_TOKENS
tokens and one document more), the shuffled documents likewise, a row group (for per_document one of
each epoch), and about 50 MB of the list of documents.
"""

from pathlib import Path
from typing import Self

import numpy as np

from data_prep.shards.counts import ShardCounts
from data_prep.shards.document_list_writer import DocumentListWriter
from data_prep.shards.encoded import EncodedBatch, EncodedDocument
from data_prep.shards.packing.packer import Packed, Packer
from data_prep.shards.packing.per_document import DocumentWindows
from data_prep.shards.packing.shuffle import DocumentShuffle
from data_prep.shards.packing.window_packer import WindowPacker
from data_prep.shards.parquet_writer import ParquetFileWriter
from data_prep.shards.schema import ShardFormat

__all__ = ["EncodedBatch", "EncodedDocument", "ShardCounts", "ShardWriter"]


class ShardWriter:
    """Packs documents into one shard; see the module's text.

    window: documents that best_fit and concat see at once. min_tokens: documents with fewer tokens are
    left out. shuffle_documents: how many are shuffled into each other before they are packed, 0 for
    none. seed: of that, and of per_document's windows.
    """

    def __init__(
        self,
        shard: Path,
        documents: Path,
        form: ShardFormat,
        window: int,
        *,
        min_tokens: int = 1,
        shuffle_documents: int = 0,
        seed: int = 0,
    ):
        self.counts = ShardCounts()
        self._shard = shard
        self._form = form
        self._min_tokens = min_tokens
        self._shuffle = DocumentShuffle(shuffle_documents, seed) if shuffle_documents else None
        self._packer: Packer = (
            DocumentWindows(form, seed)
            if form.policy == "per_document"
            else WindowPacker(form, window)
        )
        self._listed = DocumentListWriter(documents)
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
        long_enough = batch.lengths >= self._min_tokens
        if not long_enough.all():
            self.counts.too_short += int((~long_enough).sum())
            batch = batch.take(np.flatnonzero(long_enough))
        for part in self._shuffle.add(batch) if self._shuffle else (batch,):
            self._pack(part)

    def _pack(self, batch: EncodedBatch) -> None:
        for packed in self._packer.add(batch):
            self._write(packed)

    def _write(self, packed: Packed) -> None:
        for rows in packed.row_groups:
            if self._file is None:
                self._file = ParquetFileWriter(
                    self._shard, rows.schema, self._form.encodings(), self._form.file_metadata()
                )
            self._file.write(rows)
            self.counts.add_rows(rows, self._form)
        for listed in packed.documents:
            self._listed.add(listed)
            self.counts.add_documents(listed, self._form)

    def _finish(self) -> None:
        if self._shuffle:
            self._pack(self._shuffle.finish())
        for packed in self._packer.finish():
            self._write(packed)
        if self._file is None:
            return
        self._file.close()
        self._listed.write()
