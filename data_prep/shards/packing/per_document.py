"""The policy per_document: a window of each document, one document a row, in each of some epochs.

PMC-LLaMA's way (its Pretrain/Dataset/Paper_dataset.py): an epoch shows every paper once, by 512 tokens of it
from a random place on, so that long papers do not outweigh short ones. A shard's row groups take turns: an
epoch's k-th row group holds the same documents as every other epoch's k-th.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import xxhash

from data_prep.shards.encoded import EncodedBatch
from data_prep.shards.packing.packer import Packed
from data_prep.shards.packing.pieces import Pieces
from data_prep.shards.packing.rows import rows_table
from data_prep.shards.packing.window import document_list
from data_prep.shards.schema import ShardFormat


def window_starts(
    ids: Sequence[str], lengths: np.ndarray, sequence_length: int, seed: int, epoch: int
) -> np.ndarray:
    """int64 (documents,): the first token of each document's window in an epoch.

    Uniform in [0, length - sequence_length] and a function of seed, epoch and id alone: the XXH3-64 of
    "<seed> <epoch> <id>" times the number of places there are, over 2^64. 0 where a document is not
    longer than a sequence.
    """
    starts = np.zeros(len(ids), np.int64)
    spare = np.asarray(lengths) - sequence_length
    for place in np.flatnonzero(spare > 0).tolist():
        number = xxhash.xxh3_64_intdigest(f"{seed} {epoch} {ids[place]}".encode())
        starts[place] = number * (int(spare[place]) + 1) >> 64
    return starts


class DocumentWindows:
    """Takes the windows of documents as they come; memory: a row group of each epoch."""

    def __init__(self, form: ShardFormat, seed: int):
        self._form, self._seed = form, seed
        self._rows: list[list[pa.Table]] = [[] for _ in range(form.epochs)]
        self._about: list[pa.Table] = []
        self._lengths: list[np.ndarray] = []
        self._waiting = 0  # documents, and rows of every epoch
        self._written = 0  # rows

    def add(self, batch: EncodedBatch) -> Iterator[Packed]:
        begin = 0
        while begin < len(batch):
            part = batch.slice(begin, begin + min(len(batch) - begin, self._free()))
            begin += len(part)
            self._take(part)
            if not self._free():
                yield self._row_groups()

    def finish(self) -> Iterator[Packed]:
        if self._waiting:
            yield self._row_groups()

    def _free(self) -> int:
        return self._form.row_group - self._waiting

    def _take(self, batch: EncodedBatch) -> None:
        ids, lengths, count = batch.about["id"].to_pylist(), batch.lengths, len(batch)
        for epoch, rows in enumerate(self._rows):
            pieces = Pieces(
                document=np.arange(count),
                offset=window_starts(ids, lengths, self._form.sequence_length, self._seed, epoch),
                length=np.minimum(lengths, self._form.sequence_length),
                starts=np.arange(count + 1),
            )
            rows.append(rows_table(self._form, batch, np.zeros(count, np.int64), pieces))
        self._about.append(batch.about)
        self._lengths.append(lengths)
        self._waiting += count

    def _row_groups(self) -> Packed:
        """A row group of every epoch, and the list of the documents in each of them."""
        count, epochs = self._waiting, self._form.epochs
        row_groups = [pa.concat_tables(rows).combine_chunks() for rows in self._rows]
        rows = self._written + np.arange(count)[:, None] + count * np.arange(epochs)
        listed = document_list(
            pa.concat_tables(self._about),
            np.concatenate(self._lengths),
            np.full(count, epochs),
            rows.reshape(-1),
        )
        self._written += count * epochs
        self._rows = [[] for _ in range(epochs)]
        self._about, self._lengths, self._waiting = [], [], 0
        return Packed(row_groups, [listed])
