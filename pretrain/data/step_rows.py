"""The rows that one rank computes, step after step, read from shard sets. NumPy only: no torch here.

A rank's rows of a step are a slice of the sorted global batch. They lie in the row groups of one block of
each source (order.py), which the rank comes back to until the block ends; so a row group is decoded when
its block first needs it, a few steps ahead by threads, and held to the block's end. Memory: the rank's
part of shuffle_groups row groups of each source, and READ_AHEAD more.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from data_prep.errors import ConfigError, DataError
from data_prep.shards.reader import ShardSet
from data_prep.shards.storage import is_url
from pretrain.data.packed_rows import PackedRows, Part, gather, read_rows
from pretrain.data.read_ahead import ReadAhead
from pretrain.ledger import BadRowGroup
from pretrain.order.order import Order
from pretrain.order.share import Share, rank_share

BadRowGroups = Literal["stop", "skip"]

# Row groups decoded ahead of their step, 16 MB where one has 256 rows of 1,024 tokens of two bytes.
READ_AHEAD = 32
# Threads that read: of object storage, where 32 reads of 50 ms each bring 160,000 rows a second, and of
# local disks. Each takes 4 to 8 MB.
THREADS_REMOTE, THREADS_LOCAL = 32, 2
# Steps whose rows are looked up ahead, and how many of them at once, so that the first step is not kept
# waiting for the later ones.
STEPS_AHEAD = 64
STEPS_AT_ONCE = 4


@dataclass
class RankRows:
    """One rank's rows of a step, in the order's order, then rows of padding up to the share.

    `sources` counts the rows of each source in the whole global batch, equal on all ranks. Rows of a row
    group that the ledger or `bad` names are padding; the former are not counted.
    """

    step: int
    rows: PackedRows
    share: Share
    sources: dict[str, int]
    bad: list[BadRowGroup]


class StepRows:
    """The `RankRows` of rank `rank` for any steps.

    A row group that cannot be read ends the reading with the shard set's DataError (`bad_row_groups`
    "stop"), or is named by each step that needs it ("skip").
    """

    def __init__(
        self,
        order: Order,
        shard_sets: Sequence[ShardSet],
        rank: int,
        world: int,
        micro_batch: int,
        bad_row_groups: BadRowGroups = "stop",
    ):
        if not 0 <= rank < world:
            raise ConfigError(f"loader: rank {rank} does not exist in a world of {world} ranks")
        self.order = order
        self.shard_sets = list(shard_sets)
        self.sequence_length = shard_sets[0].manifest.sequence_length
        self.bad_row_groups = bad_row_groups
        manifests = [one.manifest for one in self.shard_sets]
        self._token_type = np.result_type(
            *(manifest.token_type.to_pandas_dtype() for manifest in manifests)
        )
        remote = any(is_url(one.storage.place) for one in self.shard_sets)
        self._threads = THREADS_REMOTE if remote else THREADS_LOCAL
        self._rank, self._world, self._micro_batch = rank, world, micro_batch

    def read(self, steps: Iterable[int]) -> Iterator[RankRows]:
        """The rows of each of the steps, which ascend."""
        plans = self._plans(steps)
        waiting: deque[_Plan] = deque()
        with ReadAhead(self._decode, READ_AHEAD, self._threads) as ahead:
            while True:
                for _ in range(STEPS_AT_ONCE):
                    if waiting and (ahead.full or len(waiting) >= STEPS_AHEAD):
                        break
                    if (plan := next(plans, None)) is None:
                        break
                    waiting.append(plan)
                    ahead.want(run.key for run in plan.runs if run.first)
                if not waiting:
                    return
                yield self._rows(waiting.popleft(), ahead)

    def _decode(self, key: "_Key") -> PackedRows:
        return read_rows(self.shard_sets[key.source], key.group)

    def _plans(self, steps: Iterable[int]) -> Iterator["_Plan"]:
        """What to read for each step."""
        blocks: dict[int, _Block] = {}  # of each source, the one begun last
        for step in steps:
            batch = self.order.batch(step)
            share = rank_share(self.order.global_batch_at(step), self._world, self._micro_batch)
            own = slice(self._rank * share.rows, (self._rank + 1) * share.rows)
            places = np.flatnonzero(batch.usable[own])
            columns = (batch.group, batch.block, batch.epoch, batch.source)
            keys = np.stack([column[own][places] for column in columns])
            # block by block, so that one is let go before the next is held
            sort = np.lexsort(keys)
            places, keys = places[sort], keys[:, sort]
            rows = batch.row[own][places]
            edges = np.flatnonzero((keys[:, 1:] != keys[:, :-1]).any(axis=0)) + 1
            runs: deque[_Run] = deque()
            for begin, end in pairwise([0, *edges.tolist(), len(places)] if len(places) else []):
                group, number, epoch, source = keys[:, begin].tolist()
                if source not in blocks or blocks[source].number != (epoch, number):
                    blocks[source] = _Block((epoch, number), set(), {})
                block = blocks[source]
                first = group not in block.needed
                block.needed.add(group)
                key = _Key(source, group)
                runs.append(_Run(key, block, first, rows[begin:end], places[begin:end]))
            counts = np.bincount(batch.source[batch.usable], minlength=len(self.order.sources))
            yield _Plan(step, share, runs, counts.tolist())

    def _rows(self, plan: "_Plan", ahead: ReadAhead["_Key", PackedRows]) -> RankRows:
        bad: list[BadRowGroup] = []
        count = plan.share.accumulation * plan.share.micro_batch
        parts = self._parts(plan, ahead, bad)
        rows = gather(parts, count, self.sequence_length, self._token_type)
        names = [source.name for source in self.order.sources]
        sources = dict(zip(names, plan.counts, strict=True))
        return RankRows(plan.step, rows, plan.share, sources, bad)

    def _parts(
        self, plan: "_Plan", ahead: ReadAhead["_Key", PackedRows], bad: list[BadRowGroup]
    ) -> Iterator[Part]:
        """The rows of the step's runs that can be read; the others' row groups are added to `bad`."""
        while plan.runs:
            key, block, first, rows, places = plan.runs.popleft()
            if first:
                try:
                    block.read[key.group] = ahead.take()
                except DataError as error:
                    if self.bad_row_groups == "stop":
                        raise
                    block.read[key.group] = error
            found = block.read[key.group]
            if isinstance(found, DataError):
                name = self.order.sources[key.source].name
                bad.append(BadRowGroup(plan.step, name, key.group, str(found)))
            else:
                yield Part(found, rows, places)


class _Key(NamedTuple):
    """A row group, by the number of its source and its own in the source's set."""

    source: int
    group: int


@dataclass
class _Block:
    """A block of a source: the row groups that the rank needs of it, as far as is known, and those read."""

    number: tuple[int, int]  # epoch, block
    needed: set[int]
    read: dict[int, PackedRows | DataError]


class _Run(NamedTuple):
    """Rows of a step in one row group, and their places among the rank's rows."""

    key: _Key
    block: _Block
    first: bool  # to need the row group
    rows: np.ndarray
    places: np.ndarray


@dataclass
class _Plan:
    """What to read for a step; runs are taken off as they are read, and with its last run a block goes."""

    step: int
    share: Share
    runs: deque[_Run]
    counts: list[int]  # rows of each source
