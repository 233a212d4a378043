"""Which rows are connected by equal keys, found key column by key column in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

NO_KEY = 0
"""A row with this key equals no other."""

_PARTS = 16  # of the range of keys, sorted one after another: a sixteenth of the sort's memory
_CHUNK = 1 << 20  # rows


def pairs_of_equals(keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows (two int64 arrays) that chain all rows of each key; `keys` is uint64, shape (n,).

    Memory: 2 bytes a row and, for evenly spread keys, 2 more while a part is sorted.
    """
    width = (1 << 64) // _PARTS
    for low in range(0, 1 << 64, width):
        first, last = max(low, NO_KEY + 1), low + width - 1
        rows = np.flatnonzero((keys >= np.uint64(first)) & (keys <= np.uint64(last)))
        rows = rows[np.argsort(keys[rows], kind="stable")]
        values = keys[rows]
        same = np.flatnonzero(values[1:] == values[:-1])
        yield rows[same], rows[same + 1]


class Clusters:
    """Sets of rows that grow together; 8 bytes a row."""

    def __init__(self, rows: int):
        self._above = np.arange(rows, dtype=np.int64)  # a smaller row of the set, or itself

    def join(self, left: np.ndarray, right: np.ndarray) -> None:
        """Make one of the sets of each pair of rows (int64, shape (pairs,))."""
        left, right = self._smallest(left), self._smallest(right)
        differ = left != right
        ends = np.concatenate([left[differ], right[differ]])
        sets, places = np.unique(ends, return_inverse=True)
        lower = _connect(len(sets), *np.split(places, 2))
        self._above[sets] = sets[lower]

    def _smallest(self, rows: np.ndarray) -> np.ndarray:
        found = self._above[rows]
        while not np.array_equal(above := self._above[found], found):
            found = above
        return found

    def smallest_rows(self) -> np.ndarray:
        """For each row the smallest row of its set: int64, shape (n,). It belongs to this object."""
        for start in range(0, len(self._above), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            self._above[chunk] = self._smallest(self._above[chunk])
        return self._above


def _connect(nodes: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """For each node the smallest that edges lead to: shape (nodes,), int64.

    Each root goes below the smallest root beside it until no edge leads from one set to another.
    """
    above = np.arange(nodes)
    while len(left):
        np.minimum.at(above, np.maximum(left, right), np.minimum(left, right))
        while not np.array_equal(higher := above[above], above):
            above = higher
        left, right = above[left], above[right]
        differ = left != right
        left, right = left[differ], right[differ]
    return above
