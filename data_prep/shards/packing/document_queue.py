"""Documents that wait until they are enough to be dealt with together."""

from collections.abc import Iterator

import numpy as np

from data_prep.shards.encoded import EncodedBatch, joined, no_documents


class DocumentQueue:
    """Documents that wait until they are enough: `documents` of them, or with `tokens` tokens in all.

    The last that is taken may exceed `tokens`. What is taken together depends on the documents alone,
    not on the batches in which they come.
    """

    def __init__(self, documents: int, tokens: int):
        self._documents, self._tokens = documents, tokens
        self._waiting: list[EncodedBatch] = []
        self._places, self._room = documents, tokens  # left

    def fill(self, batch: EncodedBatch) -> Iterator[EncodedBatch]:
        """Take documents; gives those that wait each time that they are enough.

        What shall go on waiting is to be given back by `keep` before the next are asked for.
        """
        begin = 0
        while begin < len(batch):
            within = batch.starts[begin + 1 :] - batch.starts[begin]
            fitting = min(self._places, int(np.searchsorted(within, self._room)) + 1)
            part = batch.slice(begin, min(len(batch), begin + max(1, fitting)))
            begin += len(part)
            self.keep(part)
            if self._places <= 0 or self._room <= 0:
                yield self.empty()

    def keep(self, batch: EncodedBatch) -> None:
        """Let these documents wait behind the others."""
        if len(batch):
            self._waiting.append(batch)
            self._places -= len(batch)
            self._room -= len(batch.tokens)

    def empty(self) -> EncodedBatch:
        """All that wait, which then wait no more."""
        waiting, self._waiting = self._waiting, []
        self._places, self._room = self._documents, self._tokens
        return joined(waiting or [no_documents()])
