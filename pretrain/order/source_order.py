"""The order in which one source's rows are read, epoch after epoch.

In an epoch the row groups of the source are permuted, cut into blocks of `shuffle_groups` (the last two
share what is left evenly), and the rows of a block interleaved. Groups smaller than the others (the last
of each file, as a rule) are laid end to end and cut into pieces as large as a full group, so that a block
is so many equal pieces and a rest. Reading the block takes one row of each piece in turn, again and again:
any run of consecutive rows takes from each the same number, give or take one. The turn follows the
bit-reversed (van der Corput) sequence, exclusive-or'ed with a random number of the block, so that a run
shorter than a turn is spread evenly over the pieces too, and the slices of a sorted batch stay with the
same groups. Which rows of a piece come first is random.

What a rank reads: its slice of every batch holds the same 1/world of a block's pieces, and one more at
either end where the batch divides unevenly or the pieces are no power of two. Measured, with 1 group in
1,000 smaller: at most 2/world of the bytes for world up to shuffle_groups/2 at 64 groups to a block; at
8,192 up to shuffle_groups/4, and up to 2.25/world at shuffle_groups/2.

What this leaves of storage order: rows of one group, neighbours in storage among them, meet within one
block, the rows of which take shuffle_groups x row-group size places; inside it their places are those of
a shuffle, and which groups share a block is one too.

Held in memory are the sizes of the groups, the first row of each block of an epoch, and a block: four
bytes a row. An epoch's first rows are found by arithmetic, corrected for the groups that are smaller, a
few at a time.

Sources: J. G. van der Corput, "Verteilungsfunktionen", Proc. Akad. Amsterdam 38 (1935), for the sequence;
L. Kocis and W. Whiten, "Computational investigations of low-discrepancy sequences", ACM TOMS 23 (1997),
for scrambling that keeps its evenness.
"""

import numpy as np

from pretrain.order.permutation import invert, mix, permute

# What a derived key is for: equal keys never serve two purposes.
_GROUPS, _TURN, _ROWS = 1, 2, 3

# Values worked on at a time: half a megabyte of them stays in a core's cache, which makes inverting the
# permutation three times as fast as all at once.
_AT_ONCE = 65_536


class Block:
    """The rows of one block. They are numbered group after group, full groups first, each ascending.

    `groups` are the row groups, as numbered in the set, `starts` the numbers of their first rows, int64;
    `numbers` are the rows in the order they are read, int32; `pieces` is how many of `full` rows they make.
    """

    def __init__(self, groups: np.ndarray, starts: np.ndarray, numbers: np.ndarray, full: int):
        self.groups, self.starts, self.numbers, self.full = groups, starts, numbers, full
        self.pieces = -(-len(numbers) // full)

    def rows(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The row group of each row, and its number there."""
        member = np.searchsorted(self.starts, numbers, side="right") - 1
        return self.groups[member], numbers - self.starts[member]

    def place(self, group: int, row: int) -> int:
        """When the row is read: its place in `numbers`."""
        member = int(np.flatnonzero(self.groups == group)[0])
        return int(np.flatnonzero(self.numbers == self.starts[member] + row)[0])


class SourceOrder:
    """Row groups of a source, `shuffle_groups` at most to a block; `key` decides every epoch's order.

    `row_groups` are those of one epoch. A set of several `variants` (per_document packing) holds every
    group so many times, interleaved: group k of epoch e is the set's group k * variants + e mod variants.
    """

    def __init__(self, row_groups: np.ndarray, variants: int, shuffle_groups: int, key: np.ndarray):
        self.row_groups = row_groups
        self.variants = variants
        self.key = key
        self.rows = int(row_groups.sum())
        groups = len(row_groups)
        self.blocks = -(-groups // shuffle_groups)
        self.shuffle_groups = shuffle_groups
        # row groups before each block, in the permuted order
        self.edges = np.minimum(np.arange(self.blocks + 1) * shuffle_groups, groups)
        if self.blocks > 1:
            self.edges[-2] = (self.edges[-3] + groups) // 2
        self.full = int(row_groups.max())

    def epoch(self, number: int) -> "EpochOrder":
        return EpochOrder(self, mix(self.key, number), number % self.variants)

    def block_at(self, places: np.ndarray) -> np.ndarray:
        """The block of each place in the permuted order: `edges` searched, by arithmetic."""
        last = self.blocks - 1
        return np.where(places >= self.edges[last], last, places // self.shuffle_groups)

    def starts(self, key: np.ndarray) -> np.ndarray:
        """Rows before each block, and in all, when `key` permutes the groups."""
        starts = self.edges * self.full
        missing = np.zeros(self.blocks, dtype=np.int64)
        for first in range(0, len(self.row_groups), _AT_ONCE):
            sizes = self.row_groups[first : first + _AT_ONCE]
            short = np.flatnonzero(sizes != self.full)
            places = invert(first + short, len(self.row_groups), key).astype(np.int64)
            np.add.at(missing, self.block_at(places), self.full - sizes[short])
        starts[1:] -= np.cumsum(missing)
        return starts


class EpochOrder:
    """One epoch of a source: every row once, at a position in range(rows)."""

    def __init__(self, source: SourceOrder, key: np.ndarray, variant: int):
        self._source = source
        self._key = key
        self._variant = variant
        self._starts = source.starts(mix(key, _GROUPS))

    def locate(self, position: int) -> tuple[int, int, int]:
        """Give the block of a position, the place inside it, and how many rows the block holds from there."""
        block = int(np.searchsorted(self._starts, position, side="right")) - 1
        first, stop = self._starts[block : block + 2].tolist()
        return block, position - first, stop - position

    def block_of(self, group: int) -> int:
        """The block that holds a row group of this epoch, numbered as in the set."""
        groups = len(self._source.row_groups)
        place = invert(group // self._source.variants, groups, mix(self._key, _GROUPS))
        return int(self._source.block_at(place.astype(np.int64)))

    def position(self, block_number: int, place: int) -> int:
        """The position of a place in the block with this number."""
        return int(self._starts[block_number]) + place

    def block(self, number: int) -> Block:
        """Build a block: time and memory in proportion to its rows."""
        source = self._source
        places = np.arange(source.edges[number], source.edges[number + 1])
        groups = permute(places, len(source.row_groups), mix(self._key, _GROUPS)).astype(np.int64)
        groups.sort()
        groups = groups[np.argsort(source.row_groups[groups] != source.full, kind="stable")]
        sizes = source.row_groups[groups]
        starts = np.cumsum(sizes) - sizes
        numbers = _interleaved(
            int(sizes.sum()),
            source.full,
            mix(self._key, _TURN, number),
            mix(self._key, _ROWS, number),
        )
        return Block(groups * source.variants + self._variant, starts, numbers, source.full)


def _interleaved(rows: int, full: int, turn_key: np.ndarray, rows_key: np.ndarray) -> np.ndarray:
    """The numbers from 0 to `rows` in the order they are read: pieces of `full` take turns, int32."""
    pieces = -(-rows // full)
    shuffled = _shuffled(rows, full, rows_key)
    turn = _turns(pieces, turn_key)
    taking_turns = np.argsort(turn)
    rest = rows - (pieces - 1) * full
    if rest == full:
        return shuffled[taking_turns].T.reshape(-1)
    # the smaller piece at the end is gone through in equal steps, too, in as much time as the others
    whole = taking_turns[taking_turns < pieces - 1]
    order = shuffled[whole].T.reshape(-1)
    turns = 2 ** (pieces - 1).bit_length()
    rounds, time = np.divmod((np.arange(rest) * turns + turn[-1]) * full, rest * turns)
    before = rounds * len(whole) + np.searchsorted(turn[whole] * rest, time)
    return np.insert(order, before, shuffled[-1, :rest])


def _shuffled(rows: int, full: int, key: np.ndarray) -> np.ndarray:
    """The numbers from 0 to `rows` in pieces of `full`, each shuffled: (pieces, full) int32.

    In the last piece those that exist come first.
    """
    pieces = -(-rows // full)
    shuffled = np.empty((pieces, full), dtype=np.int32)
    at_once = max(1, _AT_ONCE // full)
    for first in range(0, pieces, at_once):
        begin, end = first * full, min(first + at_once, pieces) * full
        numbers = np.arange(begin, end, dtype=np.int32).reshape(-1, full)
        chance = mix(key, numbers)
        chance[numbers >= rows] = np.iinfo(np.uint64).max  # no such row: last
        order = np.argsort(chance, axis=1, kind="stable")
        shuffled[first : first + at_once] = np.take_along_axis(numbers, order, axis=1)
    return shuffled


def _turns(count: int, key: np.ndarray) -> np.ndarray:
    """When each of `count` pieces takes its turn, in range of the next power of two: int64.

    Bit-reversed indices, exclusive or a key.
    """
    bits = (count - 1).bit_length()
    index = np.arange(count)
    mirrored = np.zeros(count, dtype=np.int64)
    for bit in range(bits):
        mirrored |= ((index >> bit) & 1) << (bits - 1 - bit)
    return mirrored ^ (int(key) % 2**bits)
