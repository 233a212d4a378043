"""One pass over a validation set, divided over ranks so that all run the same number of micro-batches."""

from collections.abc import Iterator
from itertools import islice

import numpy as np

from data_prep.errors import ConfigError
from data_prep.shards.reader import ShardSet
from pretrain.batch import Attention, Row, Tensors, micro_batches
from pretrain.loader import row_of


def validation_batches(
    shard_set: ShardSet,
    rank: int,
    world: int,
    micro_batch: int,
    attention: Attention,
    limit: int | None = None,
) -> Iterator[Tensors]:
    """Give this rank's micro-batches of the set's first `limit` rows (None: all), each row on one rank.

    Ranks take consecutive rows in set order. All give the same number of micro-batches of `micro_batch`
    rows: what is missing is filled with rows that train nothing. One row group is held at a time. Raises
    ConfigError for a micro-batch or limit below 1, DataError for a broken row group.
    """
    for field, value in (("micro_batch", micro_batch), ("limit", limit)):
        if value is not None and value < 1:
            raise ConfigError(f"validation: {field} is {value}; expected at least 1")
    stops = np.cumsum(shard_set.row_groups)
    total = int(shard_set.row_groups.sum())
    total = total if limit is None else min(limit, total)
    per_rank = -(-total // world)
    rows = _rows(shard_set, stops, range(total)[rank * per_rank : (rank + 1) * per_rank])
    for _ in range(-(-per_rank // micro_batch)):
        own = list(islice(rows, micro_batch))
        yield from micro_batches(own, 1, micro_batch, shard_set.manifest.sequence_length, attention)


def _rows(shard_set: ShardSet, stops: np.ndarray, numbers: range) -> Iterator[Row]:
    """Rows by their number in set order."""
    group, decoded = -1, None
    for number in numbers:
        wanted = int(np.searchsorted(stops, number, side="right"))
        if decoded is None or wanted != group:
            group, decoded = wanted, shard_set.read(wanted)
        yield row_of(decoded, number - int(stops[group] - shard_set.row_groups[group]))
