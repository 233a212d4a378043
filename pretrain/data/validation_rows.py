"""One pass over a validation set, divided over ranks so that all run the same number of micro-batches."""

from collections.abc import Iterator

import numpy as np

from data_prep.errors import ConfigError
from data_prep.shards.reader import ShardSet
from pretrain.data.batch import Attention, Tensors, assemble
from pretrain.data.packed_rows import PackedRows, Part, gather, read_rows


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
    total = int(shard_set.row_groups.sum())
    total = total if limit is None else min(limit, total)
    per_rank = -(-total // world)
    own = np.arange(rank * per_rank, min((rank + 1) * per_rank, total))
    length = shard_set.manifest.sequence_length
    token_type = np.dtype(shard_set.manifest.token_type.to_pandas_dtype())
    stops = np.cumsum(shard_set.row_groups)
    held: dict[int, PackedRows] = {}  # the row group read last, in which the next rows may go on
    for first in range(0, per_rank, micro_batch):
        parts = _parts(shard_set, stops, own[first : first + micro_batch], held)
        yield assemble(gather(parts, micro_batch, length, token_type), attention)


def _parts(
    shard_set: ShardSet, stops: np.ndarray, numbers: np.ndarray, held: dict[int, PackedRows]
) -> Iterator[Part]:
    """Rows by their number in set order; `stops` are those at which row groups end."""
    groups = np.searchsorted(stops, numbers, side="right")
    for group in np.unique(groups).tolist():
        if group not in held:
            held.clear()
            held[group] = read_rows(shard_set, group)
        places = np.flatnonzero(groups == group)
        first = int(stops[group] - shard_set.row_groups[group])
        yield Part(held[group], numbers[places] - first, places)
