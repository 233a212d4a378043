"""Which piece of which document goes where: pure functions from lengths to pieces.

`best_fit` keeps documents whole wherever it can (Ding et al. 2024, "Fewer Truncations Improve Language
Modeling"): a document longer than a sequence gives whole sequences and a rest, and rests and short
documents fill rows, largest first. Where the paper takes best-fit decreasing, rows are filled one by one
and closed without a free place where one or two documents can do that (a search of depth two in the
manner of Gupta and Ho 1999, "A new heuristic algorithm for the one-dimensional bin-packing problem").
Measured on the 14,871 abstracts of a PubMed file, four times over, in windows of 4,096 at 1,024 tokens:
0.005 % of the places stay empty, the corpus' last row included, against 0.5 % with best-fit decreasing.
`concat` lays documents end to end and cuts where a sequence ends, as Megatron does: no empty place but
in the last row, and every fifth abstract cut. No token is lost or doubled by either.

Cost of best_fit: one step of Python a document (0.3 microseconds), whatever the number of rows: which
sizes are there is one integer's bits, and pairs that fill a row are its bits and their mirror image's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pieces:
    """Pieces of documents, row after row, in the order in which they stand in a row.

    document, offset, length: int64 (n,); piece k is tokens [offset, offset + length) of a document.
    starts: int64 (rows + 1,); row r holds the pieces starts[r] to starts[r + 1].
    """

    document: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    starts: np.ndarray

    @property
    def rows(self) -> int:
        return len(self.starts) - 1

    def row(self) -> np.ndarray:
        """int64 (n,): the row of each piece."""
        return np.repeat(np.arange(self.rows), np.diff(self.starts))

    def column(self) -> np.ndarray:
        """int64 (n,): the place in its row at which each piece begins."""
        before = np.cumsum(self.length) - self.length
        return before - np.repeat(before[self.starts[:-1]], np.diff(self.starts))


def concat(lengths: np.ndarray, sequence_length: int) -> Pieces:
    """Cut the documents laid end to end every `sequence_length` tokens; only the last row is short."""
    ends = np.cumsum(np.asarray(lengths, np.int64))
    total = int(ends[-1]) if len(ends) else 0
    seams = np.arange(0, total, sequence_length)
    # Pieces begin where a document or a row begins; documents of no tokens begin no piece.
    begins = np.union1d(seams, (ends - lengths)[np.asarray(lengths) > 0])
    document = np.searchsorted(ends, begins, side="right")
    return Pieces(
        document=document,
        offset=begins - (ends - lengths)[document],
        length=np.diff(begins, append=total),
        starts=np.append(np.searchsorted(begins, seams), len(begins)),
    )


def best_fit(lengths: np.ndarray, sequence_length: int) -> Pieces:
    """Pack one window of documents, cutting only those longer than a sequence.

    Rows come in the order of their first document, pieces of a row in the order of their documents.
    """
    lengths = np.asarray(lengths, np.int64)
    whole, rest = np.divmod(lengths, sequence_length)
    cut_document = np.repeat(np.arange(len(lengths)), whole)
    cut_index = np.arange(whole.sum()) - np.repeat(np.cumsum(whole) - whole, whole)
    short = np.flatnonzero(rest)
    document = np.concatenate([cut_document, short])
    offset = np.concatenate([cut_index, whole[short]]) * sequence_length
    length = np.concatenate([np.full(len(cut_document), sequence_length), rest[short]])
    bin_of = np.concatenate(
        [
            np.arange(len(cut_document)),
            len(cut_document) + fill_rows(rest[short], sequence_length),
        ]
    )
    return _in_order(document, offset, length, bin_of)


def fill_rows(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """Put items into rows, one row after the other; int64 row of every item.

    A row begins with the largest item left. Where one item, or else two, fill what is free exactly, it
    is closed with them, and of all such pairs with the two most alike, which leaves the small ones for
    later; where none do, it takes the largest that fits and goes on. Sizes are 1 to `capacity`; of
    items of one size the earlier is taken first.
    """
    sizes = np.asarray(sizes, np.int64)
    left = np.bincount(sizes, minlength=capacity + 1).tolist()  # items by size
    there = sum(1 << size for size, number in enumerate(left) if number)  # bit s: some of size s
    mirrored = sum(1 << capacity - size for size, number in enumerate(left) if number)
    taken: list[int] = []  # sizes
    ends: list[int] = []  # of rows, in `taken`
    while there:
        free = capacity
        while fitting := there & ((2 << free) - 1):
            closing: tuple[int, ...] = (free,) if fitting >> free else ()
            if not closing and free < capacity:
                # Bit s: there are items of size s and of size free - s.
                closing = _most_alike(there & (mirrored >> capacity - free), free, left)
            for size in closing or (fitting.bit_length() - 1,):
                taken.append(size)
                free -= size
                left[size] -= 1
                if not left[size]:
                    there ^= 1 << size
                    mirrored ^= 1 << capacity - size
        ends.append(len(taken))
    row = np.searchsorted(ends, np.arange(len(taken)), side="right")
    row_of = np.empty(len(sizes), np.int64)
    row_of[np.argsort(sizes, kind="stable")] = row[np.argsort(taken, kind="stable")]
    return row_of


def _most_alike(pairs: int, total: int, left: Sequence[int]) -> tuple[int, ...]:
    """The two sizes that make up `total` and differ least; `pairs` has a bit for each size of a pair."""
    half = total // 2
    if not total % 2 and left[half] == 1:
        pairs &= ~(1 << half)  # an item is no pair with itself
    above = pairs >> total - half
    if not above:
        return ()
    larger = total - half + (above & -above).bit_length() - 1
    return (larger, total - larger)


def _in_order(
    document: np.ndarray, offset: np.ndarray, length: np.ndarray, bin_of: np.ndarray
) -> Pieces:
    by_document = np.lexsort((offset, document))
    # A row's rank is the place of its first piece in document order.
    _, first, inverse = np.unique(bin_of[by_document], return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    row = rank[inverse]
    order = by_document[np.argsort(row, kind="stable")]
    starts = np.append(0, np.cumsum(np.bincount(row, minlength=len(first))))
    return Pieces(document[order], offset[order], length[order], starts.astype(np.int64))


def without_emptiest_row(pieces: Pieces, sequence_length: int) -> tuple[Pieces, np.ndarray]:
    """The pieces less those of the row with the most free places, and the documents these belong to.

    Where every row is full, all stay. A held-back piece is always its document's last.
    """
    free = sequence_length - np.add.reduceat(pieces.length, pieces.starts[:-1])
    emptiest = int(np.argmax(free))
    if not free[emptiest]:
        return pieces, np.zeros(0, np.int64)
    begin, end = pieces.starts[emptiest], pieces.starts[emptiest + 1]
    held = np.arange(begin, end)
    kept = Pieces(
        np.delete(pieces.document, held),
        np.delete(pieces.offset, held),
        np.delete(pieces.length, held),
        np.append(0, np.cumsum(np.delete(np.diff(pieces.starts), emptiest))),
    )
    return kept, np.sort(pieces.document[begin:end])


def lay_out(
    values: np.ndarray, begins: np.ndarray, pieces: Pieces, sequence_length: int, fill: int | bool
) -> np.ndarray:
    """(rows, sequence_length): the pieces' values in their places, `fill` in the others.

    `values` holds the documents one after another; document d begins at begins[d].
    """
    places = np.full(pieces.rows * sequence_length, fill, values.dtype)
    sources = begins[pieces.document] + pieces.offset
    targets = pieces.row() * sequence_length + pieces.column()
    # Slices, not one gather over index arrays: a piece is long, and this is ten times as fast.
    for source, target, length in zip(
        sources.tolist(), targets.tolist(), pieces.length.tolist(), strict=True
    ):
        places[target : target + length] = values[source : source + length]
    return places.reshape(pieces.rows, sequence_length)
