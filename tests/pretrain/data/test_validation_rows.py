"""Validation: each row on one rank."""

from collections import Counter

import pytest

from data_prep.errors import ConfigError
from data_prep.shards.reader import ShardSet
from pretrain.data.validation_rows import validation_batches
from tests.pretrain.data.loading import LENGTH, Counting, contents_of, two_sets


@pytest.fixture
def sets(tmp_path) -> list[ShardSet]:
    return two_sets(tmp_path)


@pytest.mark.parametrize("limit", [None, 1, 7, 19, 20, 500])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_validation_gives_each_row_to_one_rank_in_equally_many_micro_batches(sets, world, limit):
    shards = sets[0]
    expected = [row["tokens"] for group in contents_of(shards) for row in group]
    ranks = [
        list(validation_batches(shards, rank, world, 3, "document", limit)) for rank in range(world)
    ]
    rows = [row for rank in ranks for part in rank for row in part["tokens"].tolist() if any(row)]
    assert rows == expected[:limit]
    assert len({len(rank) for rank in ranks}) == 1
    assert all(part["tokens"].shape == (3, LENGTH) for rank in ranks for part in rank)


def test_validation_decodes_every_group_once(sets):
    shards = Counting(sets[0].folder)
    for _ in validation_batches(shards, 0, 1, 3, "document"):
        pass
    assert shards.reads == Counter(range(6))


def test_validation_refuses_impossible_sizes(sets):
    for sizes in ({"micro_batch": 0}, {"micro_batch": 1, "limit": 0}):
        with pytest.raises(ConfigError, match="expected at least 1"):
            next(validation_batches(sets[0], 0, 1, attention="document", **sizes))
