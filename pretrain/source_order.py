"""The order in which one source's rows are read, epoch after epoch.

In an epoch the row groups of the source are permuted, cut into blocks of nearly equal size, and the rows
of a block interleaved. Reading a block in order takes its groups in turn, again and again: of groups with
equal sizes, any run of consecutive rows takes from each group the same number, give or take one. The turn
follows the bit-reversed (van der Corput) sequence, exclusive-or'ed with a random number of the block, so
that a run shorter than the block has groups is spread evenly over the sorted groups too, and the slices
of a sorted batch stay with the same groups. Which rows of a group come first is random.

Nothing here is proportional to the source but the sizes of its groups: a block is found by arithmetic,
corrected for the few groups (the last of each file) that are smaller than the others.

Sources: J. G. van der Corput, "Verteilungsfunktionen", Proc. Akad. Amsterdam 38 (1935), for the sequence;
L. Kocis and W. Whiten, "Computational investigations of low-discrepancy sequences", ACM TOMS 23 (1997),
for scrambling that keeps its evenness.
"""

from dataclasses import dataclass

import numpy as np

from pretrain.permutation import invert, mix, permute

# What a derived key is for: equal keys never serve two purposes.
_GROUPS, _TURN, _ROWS = 1, 2, 3


@dataclass
class Block:
    """The rows of one block in the order they are read: int64 arrays of equal length."""

    group: np.ndarray
    row: np.ndarray


class SourceOrder:
    """Row groups of a source, `shuffle_groups` at most to a block; `key` decides every epoch's order."""

    def __init__(self, row_groups: np.ndarray, shuffle_groups: int, key: np.ndarray):
        self.row_groups = row_groups
        self.key = key
        self.rows = int(row_groups.sum())
        groups = len(row_groups)
        blocks = -(-groups // shuffle_groups)
        # row groups before each block, in the permuted order
        self.edges = np.arange(blocks + 1, dtype=np.int64) * groups // blocks
        self._full = int(row_groups.max())
        self._short = np.flatnonzero(row_groups != self._full)
        self._missing = self._full - row_groups[self._short]

    def epoch(self, number: int) -> "EpochOrder":
        return EpochOrder(self, mix(self.key, number))

    def starts(self, key: np.ndarray) -> np.ndarray:
        """Rows before each block, and in all, when `key` permutes the groups."""
        place = invert(self._short, len(self.row_groups), key).astype(np.int64)
        in_turn = np.argsort(place)
        missing = np.concatenate([[0], np.cumsum(self._missing[in_turn])])
        return self.edges * self._full - missing[np.searchsorted(place[in_turn], self.edges)]


class EpochOrder:
    """One epoch of a source: every row once, at a position in range(rows)."""

    def __init__(self, source: SourceOrder, key: np.ndarray):
        self._source = source
        self._key = key
        self._starts = source.starts(mix(key, _GROUPS))

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give the block of each position and the place inside it."""
        block = np.searchsorted(self._starts, positions, side="right") - 1
        return block, positions - self._starts[block]

    def block_of(self, group: int) -> int:
        """The block that holds a row group."""
        place = int(invert(group, len(self._source.row_groups), mix(self._key, _GROUPS)))
        return int(np.searchsorted(self._source.edges, place, side="right")) - 1

    def position(self, block_number: int, block: Block, group: int, row: int) -> int:
        """The position of a row that `block`, the block with this number, holds."""
        place = np.flatnonzero((block.group == group) & (block.row == row))
        return int(self._starts[block_number] + place[0])

    def block(self, number: int) -> Block:
        """Build a block: time and memory in proportion to its rows."""
        edges, row_groups = self._source.edges, self._source.row_groups
        places = np.arange(edges[number], edges[number + 1])
        groups = permute(places, len(row_groups), mix(self._key, _GROUPS)).astype(np.int64)
        groups.sort()
        sizes = row_groups[groups]
        member = np.repeat(np.arange(len(groups)), sizes)
        row = np.arange(len(member)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        # rows of a group by rank: a random order, of which the turn-taking below keeps the evenness
        chance = mix(self._key, _ROWS, groups[member], row)
        row = row[np.lexsort((chance, member))]
        rank = np.arange(len(member)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        turn = _turns(len(groups), mix(self._key, _TURN, number))
        order = np.argsort((rank + turn[member]) / sizes[member], kind="stable")
        return Block(groups[member][order], row[order])


def _turns(count: int, key: np.ndarray) -> np.ndarray:
    """When each of `count` groups takes its turn, in [0, 1): bit-reversed indices, exclusive or a key."""
    bits = (count - 1).bit_length()
    index = np.arange(count)
    mirrored = np.zeros(count, dtype=np.int64)
    for bit in range(bits):
        mirrored |= ((index >> bit) & 1) << (bits - 1 - bit)
    return (mirrored ^ (int(key) % 2**bits)) / 2**bits
