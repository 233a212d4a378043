"""Rows of packed sequences as arrays, gathered from row groups without a step of Python for each row."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data_prep.errors import DataError
from data_prep.shards.reader import ShardSet


@dataclass(frozen=True, eq=False)
class PackedRows:
    """`tokens` (n, L); `pieces` (n, k): lengths of each row's document pieces in order, 0 where there are
    no more; `loss_mask` (n, L) bool: which tokens are trained on, or None: all. What the pieces leave of
    a row is padding.
    """

    tokens: np.ndarray
    pieces: np.ndarray
    loss_mask: np.ndarray | None = None

    @property
    def document_tokens(self) -> int:
        """Tokens that are not padding."""
        return int(self.pieces.sum(dtype=np.int64))


def read_rows(shard_set: ShardSet, group: int) -> PackedRows:
    """All rows of a row group; raises DataError naming file and row group where it cannot be read."""
    found = shard_set.read(group)
    counts = np.diff(found.starts)
    pieces = np.zeros((len(counts), int(counts.max(initial=0))), found.lengths.dtype)
    pieces[np.arange(pieces.shape[1]) < counts[:, None]] = found.lengths
    length = found.tokens.shape[1]
    if (longest := int(pieces.sum(axis=1, dtype=np.int64).max(initial=0))) > length:
        path, number = shard_set.place(group)
        raise DataError(
            f"{path}: row group {number}: a row of {length} tokens lists documents of {longest} tokens in "
            "all; run `verify` on its shard set and rebuild the shard"
        )
    return PackedRows(found.tokens, pieces, found.loss_mask)


class Part(NamedTuple):
    """Rows number `rows` of `source`, and their places in what they are gathered into: (n,) int64 each."""

    source: PackedRows
    rows: np.ndarray
    places: np.ndarray


def gather(
    parts: Iterable[Part], count: int, sequence_length: int, token_type: np.dtype
) -> PackedRows:
    """Copy the parts' rows into `count` rows; those without a part are padding throughout.

    Parts are asked for one by one, each when the one before it is copied.
    """
    tokens = np.zeros((count, sequence_length), token_type)
    loss_mask: np.ndarray | None = None
    into: list[slice | np.ndarray] = []
    pieces: list[np.ndarray] = []
    for source, rows, places in parts:
        first, last = places[0], places[-1]
        # a slice is filled faster than single places
        into.append(slice(first, last + 1) if last - first + 1 == len(places) else places)
        pieces.append(source.pieces[rows])
        tokens[into[-1]] = source.tokens[rows]
        if source.loss_mask is not None:
            if loss_mask is None:
                loss_mask = np.ones(tokens.shape, bool)
            loss_mask[into[-1]] = source.loss_mask[rows]
    most = max((part.shape[1] for part in pieces), default=0)
    lengths = np.zeros((count, most), np.uint32)
    for place, part in zip(into, pieces, strict=True):
        lengths[place, : part.shape[1]] = part
    return PackedRows(tokens, lengths, loss_mask)
