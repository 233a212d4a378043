"""The policies that put every token into one row: best_fit and concat, window by window."""

from collections.abc import Iterator

import numpy as np

from data_prep.shards.encoded import EncodedBatch
from data_prep.shards.packing.document_queue import DocumentQueue
from data_prep.shards.packing.packer import Packed, RowGroups
from data_prep.shards.packing.pieces import best_fit, concat, without_emptiest_row
from data_prep.shards.packing.rows import rows_table
from data_prep.shards.packing.window import empty_window
from data_prep.shards.schema import ShardFormat

WINDOW_TOKENS = 1 << 24  # 64 MB as four-byte ids
POLICIES = {"best_fit": best_fit, "concat": concat}


class WindowPacker:
    """Packs `window` documents at once, of at most WINDOW_TOKENS tokens and one document more.

    The emptiest row of each window is held back and packed again with the next one.
    """

    def __init__(self, form: ShardFormat, window: int):
        self._form = form
        self._queue = DocumentQueue(window, WINDOW_TOKENS)
        self._held_back = empty_window()
        self._row_groups = RowGroups(form.row_group)
        self._rows = 0

    def add(self, batch: EncodedBatch) -> Iterator[Packed]:
        for documents in self._queue.fill(batch):
            yield self._pack(documents, last=False)

    def finish(self) -> Iterator[Packed]:
        documents = self._queue.empty()
        if len(documents):
            yield self._pack(documents, last=True)
        yield Packed(self._row_groups.finish())

    def _pack(self, documents: EncodedBatch, last: bool) -> Packed:
        window = self._held_back.followed(documents)
        pieces = POLICIES[self._form.policy](window.batch.lengths, self._form.sequence_length)
        held_back = np.zeros(0, np.int64)
        if not last:
            # best_fit may fill that row better with documents to come; concat goes on in it.
            pieces, held_back = without_emptiest_row(pieces, self._form.sequence_length)
        row_groups = []
        if pieces.rows:
            row_groups = self._row_groups.add(
                rows_table(self._form, window.batch, window.done, pieces)
            )
        packed = window.packed(pieces, self._rows)
        self._rows += pieces.rows
        self._held_back = packed.kept(held_back, window)
        self._queue.keep(self._held_back.batch)
        return Packed(row_groups, [packed.listed(np.delete(np.arange(len(window)), held_back))])
