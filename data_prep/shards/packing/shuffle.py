"""Shuffles documents into each other before they are packed, in a bounded buffer.

Documents of a file are neighbours for a reason (a year, a journal), and best_fit and concat put neighbours
into one row. The buffer fills, gives a random half of what it holds in random order, and fills again, so
that a document may be given right away or after any number of others, on average after half a buffer. What
it gives is a function of the seed and of the documents in their order.
"""

from collections.abc import Iterator

import numpy as np

from data_prep.shards.encoded import EncodedBatch
from data_prep.shards.packing.document_queue import DocumentQueue

SHUFFLED_TOKENS = 1 << 24  # 64 MB as four-byte ids; beyond, long documents shuffle in fewer


class DocumentShuffle:
    """Holds up to `documents` documents, and of SHUFFLED_TOKENS tokens and one document more."""

    def __init__(self, documents: int, seed: int):
        self._queue = DocumentQueue(documents, SHUFFLED_TOKENS)
        # Raw numbers of a bit generator, unlike what a Generator makes of them, never change with NumPy.
        self._random = np.random.PCG64(seed)

    def add(self, batch: EncodedBatch) -> Iterator[EncodedBatch]:
        """Take documents; gives those whose turn it is."""
        for held in self._queue.fill(batch):
            order = self._order(len(held))
            half = (len(held) + 1) // 2
            # What stays keeps its order: the next numbers are as good for it as any.
            self._queue.keep(held.take(np.sort(order[half:])))
            yield held.take(order[:half])

    def finish(self) -> EncodedBatch:
        """All that are left."""
        held = self._queue.empty()
        return held.take(self._order(len(held)))

    def _order(self, documents: int) -> np.ndarray:
        return np.argsort(self._random.random_raw(documents), kind="stable")
