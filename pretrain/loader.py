"""The batches of one rank, step after step, read from shard sets.

Nothing is written, locked or shared between processes: every rank and every worker computes the order and
decodes the row groups it needs. A run is continued by naming the step to start at.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import numpy as np
import torch.utils.data

from data_prep.errors import ConfigError, ProjectError
from data_prep.shards.reader import RowGroup, ShardSet
from pretrain.batch import Attention, Row, Tensors, micro_batches, trained_tokens
from pretrain.order import Order, Rows
from pretrain.recent import Recent
from pretrain.share import held_groups, rank_share

Held = Recent[int, RowGroup]


@dataclass
class StepBatch:
    """What one rank computes in one step.

    `micro_batches` are the tensors of pretrain.batch.assemble, as many on every rank and of one shape.
    `trained_tokens` counts the labels this rank's loss is summed over, `tokens` the document tokens
    (padding and filler excluded) of its rows. `sources` gives the rows of each source in the whole global
    batch, equal on all ranks.
    """

    step: int
    micro_batches: list[Tensors]
    trained_tokens: int
    tokens: int
    sources: dict[str, int]

    def pin_memory(self) -> "StepBatch":
        """The same in page-locked memory; a DataLoader with pin_memory=True calls this."""
        pinned = [
            {name: tensor.pin_memory() for name, tensor in part.items()}
            for part in self.micro_batches
        ]
        return replace(self, micro_batches=pinned)


class StepDataset(torch.utils.data.IterableDataset):
    """The `StepBatch` of rank `rank` for each step from `start_step` up to `stop_step`.

    In a DataLoader (batch_size=None), or through read_steps, n workers take the steps in turn and the
    loader gives them in order, the same ones for any n. Row groups stay decoded while the rank needs
    them: for each source the rank's part of shuffle_groups, once in every worker. Raises ConfigError where
    order, shard sets and world do not fit together, DataError (from the shard set, naming file and row
    group) for a broken row group.
    """

    def __init__(
        self,
        order: Order,
        shard_sets: Sequence[ShardSet],
        rank: int,
        world: int,
        micro_batch: int,
        attention: Attention,
        start_step: int,
        stop_step: int,
    ):
        super().__init__()
        _check_sets(order, shard_sets)
        share = rank_share(order.global_batch, world, micro_batch)
        if not 0 <= rank < world:
            raise ConfigError(f"loader: rank {rank} does not exist in a world of {world} ranks")
        self.order = order
        self.shard_sets = list(shard_sets)
        self.attention: Attention = attention
        self.steps = range(start_step, stop_step)
        self.sequence_length = shard_sets[0].manifest.sequence_length
        first = min(rank * share.rows, order.global_batch)
        self._rows = slice(first, min(first + share.rows, order.global_batch))
        self._share = share
        self.held_groups = _held(order, self._rows)

    def __iter__(self) -> Iterator[StepBatch]:
        worker = torch.utils.data.get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        held: list[Held] = [Recent(max(1, capacity)) for capacity in self.held_groups]
        for step in self.steps[first::stride]:
            yield self._step(step, held)

    def __len__(self) -> int:
        return len(self.steps)

    def _step(self, step: int, held: list[Held]) -> StepBatch:
        batch = self.order.batch(step)
        rows = self._read(batch, held)
        share, length = self._share, self.sequence_length
        tensors = list(
            micro_batches(rows, share.accumulation, share.micro_batch, length, self.attention)
        )
        counts = np.bincount(batch.source, minlength=len(self.order.sources)).tolist()
        names = [source.name for source in self.order.sources]
        return StepBatch(
            step=step,
            micro_batches=tensors,
            trained_tokens=sum(trained_tokens(part["labels"]) for part in tensors),
            tokens=sum(int(row.lengths.sum()) for row in rows),
            sources=dict(zip(names, counts, strict=True)),
        )

    def _read(self, batch: Rows, held: list[Held]) -> list[Row]:
        """The rank's rows, in the batch's order.

        They are read block by block: where a batch ends one block of a source and begins the next, the
        groups of the old one are used for the last time before those of the new one displace them.
        """
        source, epoch, block, group, row = (
            column[self._rows]
            for column in (batch.source, batch.epoch, batch.block, batch.group, batch.row)
        )
        rows: list[Row | None] = [None] * len(source)
        for place in np.lexsort((block, epoch, source)).tolist():
            number, of_source = int(group[place]), int(source[place])
            decoded = held[of_source].get(number, partial(self.shard_sets[of_source].read, number))
            rows[place] = row_of(decoded, int(row[place]))
        return cast(list[Row], rows)


class _ErrorsAsItems(torch.utils.data.IterableDataset):
    """Passes an error on as the last item: across processes torch would wrap its traceback around it."""

    def __init__(self, dataset: StepDataset):
        super().__init__()
        self.dataset = dataset

    def __iter__(self) -> Iterator[StepBatch | ProjectError]:
        try:
            yield from self.dataset
        except ProjectError as error:
            yield error


def read_steps(
    dataset: StepDataset,
    workers: int,
    pin_memory: bool = False,
    worker_init_fn: Callable[[int], None] | None = None,
) -> Iterator[StepBatch]:
    """Give the dataset's steps in order, prepared by `workers` processes (0: by this one).

    Raises what the dataset raises, with its own one-line message, when its step is due.
    """
    loader = torch.utils.data.DataLoader(
        _ErrorsAsItems(dataset),
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=worker_init_fn,
    )
    for item in loader:
        if isinstance(item, ProjectError):
            raise item
        yield item


def row_of(group: RowGroup, row: int) -> Row:
    """Copy one row of a decoded row group: a view would keep the whole group in memory."""
    pieces = slice(int(group.starts[row]), int(group.starts[row + 1]))
    mask = None if group.loss_mask is None else group.loss_mask[row].copy()
    return Row(group.tokens[row].copy(), group.lengths[pieces].copy(), mask)


def _held(order: Order, rows: slice) -> list[int]:
    """Row groups to keep decoded of each source; see held_groups."""
    stops = np.cumsum(order.mixture.weights) * order.global_batch / order.mixture.period
    starts = np.concatenate([[0.0], stops[:-1]])
    return [
        held_groups(
            rows.start, rows.stop, start, stop, min(order.shuffle_groups, len(source.row_groups))
        )
        for source, start, stop in zip(order.sources, starts, stops, strict=True)
    ]


def _check_sets(order: Order, shard_sets: Sequence[ShardSet]) -> None:
    if len(shard_sets) != len(order.sources):
        raise ConfigError(
            f"loader: {len(shard_sets)} shard sets for an order of {len(order.sources)} sources"
        )
    for source, shard_set in zip(order.sources, shard_sets, strict=True):
        if not np.array_equal(source.row_groups, shard_set.row_groups):
            raise ConfigError(
                f"loader: source {source.name!r} of the order has other row groups than its shard set "
                f"{shard_set.manifest.source!r}; make the order from the sets that are read"
            )
    first = shard_sets[0].manifest
    for field in ("sequence_length", "tokenizer_fingerprint"):
        for shard_set in shard_sets:
            found, expected = getattr(shard_set.manifest, field), getattr(first, field)
            if found != expected:
                raise ConfigError(
                    f"loader: shard set {shard_set.manifest.source!r} has {field} {found!r}, "
                    f"{first.source!r} has {expected!r}; build all sets of a mixture with one setting"
                )
