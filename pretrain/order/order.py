"""Which rows form each step: a pure function of seed, sources, weights, batch, block size and ledger.

World size, workers and interruptions do not enter. The ledger cuts the run into segments (segments.py), in
which a step is a run of sequences of a mixture's schedule. Of each source these are a run of ordinals;
an ordinal divided by the rows of an epoch is its epoch, the remainder its position in the epoch's order
(source_order.py). Any step is found in constant time and memory, apart from the list of row group sizes.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from data_prep.errors import ConfigError, DataError
from data_prep.files import digest
from pretrain.ledger import BadRowGroup, Entry
from pretrain.order.permutation import mix
from pretrain.order.segments import Segment, check_source, cut_into_segments
from pretrain.order.source_order import Block, EpochOrder, SourceOrder
from pretrain.watch.recent import Recent

# Raised when the same arguments come to give another order, so that fingerprints differ too.
SCHEME = 2


@dataclass(frozen=True)
class SourceRows:
    """A source's name and the number of rows in each of its row groups, in set order.

    A set built for several `epochs` (per_document packing) holds each epoch in row groups of its own,
    interleaved: group g belongs to epoch g mod `epochs`.
    """

    name: str
    row_groups: np.ndarray
    epochs: int = 1


@dataclass(frozen=True)
class Rows:
    """The rows of a batch: arrays, each (global_batch,), int64 but for `usable`.

    They are sorted by source, then by group and row, groups smaller than the others last. Where a batch
    ends one block of a source and begins the next, both are sorted so and merged by their places in the
    block, from 0 to 1: a slice of every batch then has its rows from the same groups. `source` is an index
    into the order's sources, `group` into that source's row groups, `row` into the group; `epoch` counts from 0 how often the source was read before, `block` is the block of row groups
    within that epoch to which the row's group belongs. `usable` is False where the ledger has declared the
    row group bad.
    """

    source: np.ndarray
    group: np.ndarray
    row: np.ndarray
    epoch: np.ndarray
    block: np.ndarray
    usable: np.ndarray


@dataclass(frozen=True)
class Visit:
    """A row's turn in an epoch: the step that reads it or, where it is skipped, the one after the skip."""

    epoch: int
    step: int
    skipped: bool = False


class Order:
    """The rows of every step, and for every row its steps.

    Each source's rows appear exactly once in each of its epochs; in the first n sequences of a mixture each
    source's count differs from its share by less than one. Raises ConfigError for arguments that describe
    no run.
    """

    def __init__(
        self,
        sources: Sequence[SourceRows],
        weights: Sequence[int],
        seed: int,
        global_batch: int,
        shuffle_groups: int,
        ledger: Sequence[Entry] = (),
    ):
        _check(sources, weights, global_batch, shuffle_groups)
        self.sources = list(sources)
        self.seed = seed
        self.shuffle_groups = shuffle_groups
        names = [source.name for source in sources]
        self.segments = cut_into_segments(names, weights, global_batch, ledger)
        self.bad_row_groups = [entry for entry in ledger if isinstance(entry, BadRowGroup)]
        self._bad = _first_steps(self.sources, self.bad_row_groups)
        self._orders = [
            SourceOrder(
                np.asarray(source.row_groups, dtype=np.int64)[:: source.epochs],
                source.epochs,
                shuffle_groups,
                mix(seed, _name_key(source.name)),
            )
            for source in sources
        ]
        # two of each: readers at work on two steps may stand on either side of a border
        self._epochs: list[Recent[int, EpochOrder]] = [Recent(2) for _ in sources]
        self._blocks: list[Recent[tuple[int, int], Block]] = [Recent(2) for _ in sources]

    def batch(self, step: int) -> Rows:
        """Give the rows of `step` (from 0)."""
        segment = self.segment_at(step)
        ordinals = zip(
            segment.counts(step).tolist(), segment.counts(step + 1).tolist(), strict=True
        )
        source, group, row, epoch, block = np.concatenate(
            [self._of_source(number, *part) for number, part in enumerate(ordinals)], axis=1
        )
        return Rows(source, group, row, epoch, block, self._usable(step, source, group))

    def segment_at(self, step: int) -> Segment:
        """The part of the run, cut at the ledger's entries, that holds a step."""
        if step < 0:
            raise ConfigError(f"order: step {step} is negative; steps count from 0")
        return self.segments[bisect_right(self.segments, step, key=lambda part: part.first) - 1]

    def global_batch_at(self, step: int) -> int:
        """The sequences of a step."""
        return self.segment_at(step).global_batch

    def counts(self, step: int) -> np.ndarray:
        """Sequences of each source before a step, the skipped ones included: (sources,) int64."""
        return self.segment_at(step).counts(step)

    def epochs(self, step: int) -> dict[str, float]:
        """How often each source has been gone through before a step."""
        return {
            source.name: count / order.rows
            for source, order, count in zip(
                self.sources, self._orders, self.counts(step).tolist(), strict=True
            )
        }

    def steps_for(self, sequences: int) -> int:
        """The fewest steps whose batches hold so many sequences."""
        for segment, after in pairwise(self.segments):
            held = (after.first - segment.first) * segment.global_batch
            if held >= sequences:
                return segment.first + -(-sequences // segment.global_batch)
            sequences -= held
        return self.segments[-1].first + -(-sequences // self.segments[-1].global_batch)

    def sequences(self, steps: int) -> int:
        """The sequences that the batches of the first `steps` steps hold."""
        ends = [*(after.first for after in self.segments[1:]), steps]
        return sum(
            max(0, min(end, steps) - part.first) * part.global_batch
            for part, end in zip(self.segments, ends, strict=True)
        )

    def visits(self, source: int, group: int, row: int, stop_step: int) -> Iterator[Visit]:
        """Give the turns of a row before `stop_step`, epoch by epoch: `batch` inverted."""
        order = self._orders[source]
        sizes = self.sources[source].row_groups
        if not (0 <= group < len(sizes) and 0 <= row < sizes[group]):
            raise ConfigError(
                f"order: source {self.sources[source].name!r} has no row {row} in row group {group}"
            )
        stop = int(self.counts(stop_step)[source])
        begins = [int(part.counts(part.first)[source]) for part in self.segments]
        ends = [
            *(int(part.counts(after.first)[source]) for part, after in pairwise(self.segments)),
            stop,
        ]
        for epoch in range(group % order.variants, -(-stop // order.rows), order.variants):
            this = self._epoch(source, epoch)
            number = this.block_of(group)
            place = self._block(source, epoch, number).place(group, row)
            ordinal = epoch * order.rows + this.position(number, place)
            if ordinal >= stop:
                return
            after = bisect_right(begins, ordinal)
            if after > 0 and ordinal < ends[after - 1]:
                yield Visit(epoch, self.segments[after - 1].step_of(source, ordinal))
            else:
                yield Visit(epoch, self.segments[after].first, skipped=True)

    def steps_of(self, source: int, group: int, row: int, stop_step: int) -> list[int]:
        """Give the steps before `stop_step` whose batch holds this row, ascending, each once."""
        visits = self.visits(source, group, row, stop_step)
        # a source smaller than the batch shows a row twice in one step
        return list(dict.fromkeys(visit.step for visit in visits if not visit.skipped))

    def is_bad(self, source: int, group: int, step: int) -> bool:
        """Whether the ledger leaves the row group out of this step's batch."""
        return self._bad.get((source, group), step + 1) <= step

    def fingerprint(self, until: int | None = None) -> str:
        """Digest of everything that determines the steps before `until` (None: all), and of nothing else.

        Sources that no step before it reads do not enter.
        """
        segments = [part for part in self.segments if until is None or part.first < until]
        read = [
            number
            for number in range(len(self.sources))
            if any(part.mixture.weights[number] for part in segments)
        ]
        return digest(
            {
                "scheme": SCHEME,
                "seed": self.seed,
                "shuffle_groups": self.shuffle_groups,
                "sources": [_described(self.sources[number]) for number in read],
                "segments": [
                    [
                        part.first,
                        part.global_batch,
                        [part.mixture.weights[number] for number in read],
                        part.place,
                        part.before[read].tolist(),
                    ]
                    for part in segments
                ],
                "bad_row_groups": sorted(
                    [entry.step, entry.source, entry.group]
                    for entry in self.bad_row_groups
                    if until is None or entry.step < until
                ),
            }
        )

    def _of_source(self, source: int, first: int, stop: int) -> np.ndarray:
        """The source's sequences from ordinal `first` to `stop`: the columns of Rows, sorted, as rows."""
        columns = np.empty((5, stop - first), dtype=np.int64)
        columns[0] = source
        relative = np.empty(stop - first)  # where in its block a row's piece stands, from 0 to 1
        begin = 0
        while begin < stop - first:
            epoch, position = divmod(first + begin, self._orders[source].rows)
            number, place, rest = self._epoch(source, epoch).locate(position)
            held = self._block(source, epoch, number)
            part = slice(begin, min(begin + rest, stop - first))
            numbers = np.sort(held.numbers[place : place + part.stop - begin])
            columns[1, part], columns[2, part] = held.rows(numbers)
            columns[3, part], columns[4, part] = epoch, number
            relative[part] = numbers // held.full / held.pieces
            begin = part.stop
        if begin and columns[3:, 0].tolist() != columns[3:, -1].tolist():
            columns = columns[:, np.argsort(relative, kind="stable")]
        return columns

    def _usable(self, step: int, source: np.ndarray, group: np.ndarray) -> np.ndarray:
        usable = np.ones(len(source), dtype=bool)
        for (bad_source, bad_group), declared in self._bad.items():
            if declared <= step:
                usable &= (source != bad_source) | (group != bad_group)
        return usable

    def _epoch(self, source: int, epoch: int) -> EpochOrder:
        return self._epochs[source].get(epoch, lambda: self._orders[source].epoch(epoch))

    def _block(self, source: int, epoch: int, number: int) -> Block:
        return self._blocks[source].get(
            (epoch, number), lambda: self._epoch(source, epoch).block(number)
        )


def _name_key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def _described(source: SourceRows) -> dict[str, str | int]:
    sizes = np.ascontiguousarray(source.row_groups, dtype="<i8")
    return {
        "name": source.name,
        "epochs": source.epochs,
        "row_groups": hashlib.sha256(sizes.data).hexdigest(),
    }


def _first_steps(
    sources: Sequence[SourceRows], bad_row_groups: Sequence[BadRowGroup]
) -> dict[tuple[int, int], int]:
    """(source, row group): the step from which it is bad."""
    names = [source.name for source in sources]
    steps: dict[tuple[int, int], int] = {}
    for entry in bad_row_groups:
        check_source(entry.source, names, entry)
        source = names.index(entry.source)
        groups = len(sources[source].row_groups)
        if not 0 <= entry.group < groups:
            raise ConfigError(
                f"order: the bad_row_group entry at step {entry.step} names row group {entry.group} of "
                f"source {entry.source!r}, which has {groups}"
            )
        steps.setdefault((source, entry.group), entry.step)
        if sum(bad == source for bad, _ in steps) == groups:
            raise DataError(
                f"order: all {groups} row groups of source {entry.source!r} are declared bad, the last at "
                f"step {entry.step} ({entry.reason}); restore its shard set and take the entries out of "
                "the run's ledger"
            )
    return steps


def _check(
    sources: Sequence[SourceRows], weights: Sequence[int], global_batch: int, shuffle_groups: int
) -> None:
    names = [source.name for source in sources]
    if len(weights) != len(names):
        raise ConfigError(
            f"order: {len(weights)} weights for {len(names)} sources {names}; give each source one weight"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"order: source {twice[0]!r} appears twice; give each source another name"
        )
    for field, value in (("global_batch", global_batch), ("shuffle_groups", shuffle_groups)):
        if value < 1:
            raise ConfigError(f"order: {field} is {value}; expected at least 1")
    for source in sources:
        if len(source.row_groups) == 0:
            raise ConfigError(
                f"order: source {source.name!r} has no row groups; leave the empty set out"
            )
        if np.min(source.row_groups) < 1:
            empty = int(np.argmin(source.row_groups))
            raise ConfigError(
                f"order: row group {empty} of source {source.name!r} has "
                f"{int(source.row_groups[empty])} rows; expected at least 1, rebuild its shards"
            )
        _check_epochs(source)


def _check_epochs(source: SourceRows) -> None:
    if source.epochs == 1:
        return
    groups = np.asarray(source.row_groups)
    whole = len(groups) % source.epochs == 0 if source.epochs > 1 else False
    if (
        not whole
        or (groups.reshape(-1, source.epochs) != groups[:: source.epochs, np.newaxis]).any()
    ):
        raise ConfigError(
            f"order: the row groups of source {source.name!r} are not {source.epochs} equal epochs in "
            "turn, as its manifest says; build its shards again"
        )
