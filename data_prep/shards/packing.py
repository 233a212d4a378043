"""Which piece of which document goes where: pure functions from lengths to pieces.

`best_fit` keeps documents whole wherever it can (Ding et al. 2024, "Fewer Truncations Improve Language
Modeling"): a document longer than a sequence gives whole sequences and a rest, and rests and short
documents are packed by best-fit decreasing. Measured at 1,024 tokens on a PubMed file: 0.04 % of the
places stay empty where titles without an abstract are among the documents, 0.5 % where nothing is
shorter than 50 tokens. `concat` lays documents end to end and cuts where a sequence ends, as Megatron
does: no empty place but in the last row, and every sixth to fourth abstract cut. No token is lost or
doubled.

Cost of best_fit: one step of Python a document (about a microsecond), whatever the number of rows: the
open rows are found by their free places through the bits of one integer.
"""

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
            len(cut_document) + best_fit_decreasing(rest[short], sequence_length),
        ]
    )
    return _in_order(document, offset, length, bin_of)


def best_fit_decreasing(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """Put items, largest first, each into the fullest bin that takes it; int64 bin of every item.

    Sizes are 1 to `capacity`. Ties: the earlier item first, the bin last changed first.
    """
    order = np.argsort(-np.asarray(sizes), kind="stable")
    open_bins: list[list[int]] = [[] for _ in range(capacity + 1)]  # by free places
    free_places = 0  # bit f is set where a bin has f places free
    bins = 0
    placed = []
    for size in np.asarray(sizes)[order].tolist():
        fitting = free_places >> size
        if fitting:
            free = size + (fitting & -fitting).bit_length() - 1
            candidates = open_bins[free]
            chosen = candidates.pop()
            if not candidates:
                free_places ^= 1 << free
        else:
            free, chosen = capacity, bins
            bins += 1
        placed.append(chosen)
        left = free - size
        if left:
            open_bins[left].append(chosen)
            free_places |= 1 << left
    bin_of = np.empty(len(order), np.int64)
    bin_of[order] = placed
    return bin_of


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
