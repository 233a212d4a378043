"""Which rows form each step: a pure function of seed, sources, weights, batch and block size.

World size, workers and interruptions do not enter. Sequence n = step * global_batch + j belongs to the
source that the mixture gives it, as that source's sequence number `ordinal`; ordinal divided by the
source's rows is its epoch, the remainder its position in the epoch's order (source_order.py). Any step is
found in constant time and memory, apart from the list of row group sizes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.errors import ConfigError
from data_prep.files import digest
from pretrain.mixture import Mixture
from pretrain.permutation import mix
from pretrain.recent import Recent
from pretrain.source_order import Block, EpochOrder, SourceOrder

# Raised when the same arguments come to give another order, so that fingerprints differ too.
SCHEME = 1


@dataclass(frozen=True)
class SourceRows:
    """A source's name and the number of rows in each of its row groups, in set order."""

    name: str
    row_groups: np.ndarray


@dataclass(frozen=True)
class Rows:
    """The rows of a batch, sorted by (source, group, row): int64 arrays, each (global_batch,).

    `source` is an index into the order's sources, `group` into that source's row groups, `row` into the
    group; `epoch` counts from 0 how often the source was read before, `block` is the block of row groups
    within that epoch to which the row's group belongs.
    """

    source: np.ndarray
    group: np.ndarray
    row: np.ndarray
    epoch: np.ndarray
    block: np.ndarray


class Order:
    """The rows of every step, and for every row its steps.

    Each source's rows appear exactly once in each of its epochs; in the first n sequences of the run each
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
    ):
        _check(sources, weights, global_batch, shuffle_groups)
        self.sources = list(sources)
        self.mixture = Mixture(weights)
        self.seed = seed
        self.global_batch = global_batch
        self.shuffle_groups = shuffle_groups
        self._orders = [
            SourceOrder(
                np.asarray(source.row_groups, dtype=np.int64),
                shuffle_groups,
                mix(seed, _name_key(source.name)),
            )
            for source in sources
        ]
        # a batch may end one epoch or block of a source and begin the next
        self._epochs: Recent[tuple[int, int], EpochOrder] = Recent(2 * len(sources))
        self._blocks: Recent[tuple[int, int, int], Block] = Recent(2 * len(sources))

    def batch(self, step: int) -> Rows:
        """Give the rows of `step` (from 0)."""
        if step < 0:
            raise ConfigError(f"order: step {step} is negative; steps count from 0")
        source, ordinal = self.mixture.assign(
            step * self.global_batch + np.arange(self.global_batch, dtype=np.int64)
        )
        rows = np.array([order.rows for order in self._orders], dtype=np.int64)
        epoch, position = np.divmod(ordinal, rows[source])
        columns = np.empty((3, self.global_batch), dtype=np.int64)
        for part_source, part_epoch in set(zip(source.tolist(), epoch.tolist(), strict=True)):
            part = (source == part_source) & (epoch == part_epoch)
            columns[:, part] = self._rows(part_source, part_epoch, position[part])
        group, row, block = columns
        sort = np.lexsort((epoch, row, group, source))
        return Rows(source[sort], group[sort], row[sort], epoch[sort], block[sort])

    def steps_of(self, source: int, group: int, row: int, stop_step: int) -> list[int]:
        """Give the steps before `stop_step` whose batch holds this row, ascending: `batch` inverted."""
        order = self._orders[source]
        if not (0 <= group < len(order.row_groups) and 0 <= row < order.row_groups[group]):
            raise ConfigError(
                f"order: source {self.sources[source].name!r} has no row {row} in row group {group}"
            )
        steps: list[int] = []
        epoch = 0
        stop = stop_step * self.global_batch
        while self.mixture.position(source, epoch * order.rows) < stop:
            this = self._epoch(source, epoch)
            number = this.block_of(group)
            position = this.position(number, self._block(source, epoch, number), group, row)
            n = self.mixture.position(source, epoch * order.rows + position)
            step = n // self.global_batch
            # a source smaller than the batch shows a row twice in one step
            if n < stop and step not in steps[-1:]:
                steps.append(step)
            epoch += 1
        return steps

    def fingerprint(self) -> str:
        """Digest of everything that determines the order, and of nothing else."""
        return digest(
            {
                "scheme": SCHEME,
                "seed": self.seed,
                "global_batch": self.global_batch,
                "shuffle_groups": self.shuffle_groups,
                "sources": [
                    {
                        "name": source.name,
                        "weight": weight,
                        "row_groups": hashlib.sha256(
                            np.ascontiguousarray(order.row_groups, dtype="<i8").data
                        ).hexdigest(),
                    }
                    for source, weight, order in zip(
                        self.sources, self.mixture.weights, self._orders, strict=True
                    )
                ],
            }
        )

    def _rows(self, source: int, epoch: int, position: np.ndarray) -> np.ndarray:
        """Group, row and block of each position, as three rows of an array."""
        block, place = self._epoch(source, epoch).locate(position)
        columns = np.stack([np.empty_like(block), np.empty_like(block), block])
        for number in np.unique(block):
            held = self._block(source, epoch, int(number))
            part = block == number
            columns[0, part], columns[1, part] = held.group[place[part]], held.row[place[part]]
        return columns

    def _epoch(self, source: int, epoch: int) -> EpochOrder:
        return self._epochs.get((source, epoch), lambda: self._orders[source].epoch(epoch))

    def _block(self, source: int, epoch: int, number: int) -> Block:
        return self._blocks.get(
            (source, epoch, number), lambda: self._epoch(source, epoch).block(number)
        )


def _name_key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


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
