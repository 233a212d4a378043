"""How a batch is divided: every row to exactly one rank, whatever the world size."""

import pytest

from data_prep.errors import ConfigError
from pretrain.order.share import rank_share


def test_every_world_size_up_to_the_batch_computes_every_row_once_in_equal_micro_batches():
    for global_batch in range(1, 30):
        for world in range(1, global_batch + 1):
            for micro_batch in (1, 2, 3, 8):
                share = rank_share(global_batch, world, micro_batch)
                (rows, accumulation), size = share, share.micro_batch
                computed = [
                    row
                    for rank in range(world)
                    for row in range(global_batch)[rank * rows : (rank + 1) * rows]
                ]
                assert computed == list(range(global_batch))
                assert size <= micro_batch
                # room for every row, and no micro-batch or row of filler that all ranks could do without
                assert rows <= accumulation * size < rows + accumulation
                assert (accumulation - 1) * micro_batch < rows


def test_an_even_share_can_be_required():
    assert rank_share(24, 3, 4, require_even=True) == (8, 2)
    for arguments in ((25, 3, 4), (24, 3, 3), (24, 5, 1)):
        with pytest.raises(ConfigError, match="no multiple"):
            rank_share(*arguments, require_even=True)


def test_more_ranks_than_sequences_are_refused_with_the_way_out():
    with pytest.raises(ConfigError, match="start at most 8 ranks, or raise global_batch"):
        rank_share(8, 9, 1)


@pytest.mark.parametrize("arguments", [(0, 1, 1), (4, 0, 1), (4, 1, 0)])
def test_nothing_can_be_less_than_one(arguments):
    with pytest.raises(ConfigError, match="expected at least 1"):
        rank_share(*arguments)
