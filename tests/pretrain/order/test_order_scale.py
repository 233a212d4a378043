"""The order of a corpus of a thousand million sequences, and how well one source's rows are shuffled."""

import tracemalloc

import numpy as np
import pytest

from pretrain.order.order import Order, SourceRows
from pretrain.order.permutation import mix
from pretrain.order.source_order import SourceOrder

SEQUENCES, ROW_GROUP = 10**9, 256
GROUPS = SEQUENCES // ROW_GROUP


def _short_at_the_end_of_each_file() -> np.ndarray:
    sizes = np.full(GROUPS, ROW_GROUP)
    sizes[999::1000] = 100
    return sizes


def _all_ragged() -> np.ndarray:
    return 1 + np.arange(GROUPS) % (2 * ROW_GROUP - 1)


@pytest.mark.parametrize("shuffle_groups", [64, 8192])
@pytest.mark.parametrize("row_groups", [_short_at_the_end_of_each_file, _all_ragged])
def test_any_step_of_a_billion_sequences_is_found_within_200_megabytes(row_groups, shuffle_groups):
    tracemalloc.start()
    try:
        sizes = row_groups()
        order = Order([SourceRows("pubmed", sizes)], [1], 3, 4096, shuffle_groups)
        for step in (12_345_678, 200_000, 12_345_678):
            rows = order.batch(step)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200e6
    total = int(sizes.sum())
    first, last = (number // total for number in (step * 4096, (step + 1) * 4096 - 1))
    assert set(rows.epoch.tolist()) == {first, last}
    assert len(set(zip(rows.epoch, rows.group, rows.row, strict=True))) == 4096
    assert (rows.row < sizes[rows.group]).all()


def _all_full() -> np.ndarray:
    return np.full(GROUPS, ROW_GROUP)


@pytest.mark.parametrize(
    ("row_groups", "world", "parts"),
    [
        (_all_full, 64, 2),
        (_all_full, 1000, 2),
        (_all_full, 4096, 2),
        (_short_at_the_end_of_each_file, 64, 2),
        (_short_at_the_end_of_each_file, 1000, 2),
        (_short_at_the_end_of_each_file, 2048, 2),
        # two groups to a rank, 8,188 pieces to a block: see source_order.py
        (_short_at_the_end_of_each_file, 4096, 2.5),
    ],
)
def test_of_a_billion_sequences_a_rank_reads_two_parts_in_world_at_most(row_groups, world, parts):
    shuffle_groups, global_batch = 8192, 8192
    sizes = row_groups()
    order = Order([SourceRows("pubmed", sizes)], [1], 3, global_batch, shuffle_groups)
    share = -(-global_batch // world)
    ranks = np.linspace(0, global_batch // share - 1, 9).astype(int).tolist()
    touched: dict[int, set[int]] = {rank: set() for rank in ranks}
    step, first = 60_000, int(order.batch(60_000).block.max())
    block: set[int] = set()
    # one whole block, with the batches that it shares with the blocks before and after it
    while (rows := order.batch(step)).block.min() <= first + 1:
        of_block = rows.block == first + 1
        block |= set(rows.group[of_block].tolist())
        for rank in ranks:
            part = slice(rank * share, (rank + 1) * share)
            touched[rank] |= set(rows.group[part][of_block[part]].tolist())
        step += 1
    assert len(block) == shuffle_groups
    read = [int(sizes[sorted(groups)].sum()) for groups in touched.values()]
    assert 0 < min(read) <= max(read) <= parts * sizes[sorted(block)].sum() / world


SIZE, WIDTH, BLOCKS = 32, 64, 24  # rows of a group, groups of a block


def _places(epoch: int) -> np.ndarray:
    """Where each row, numbered as stored, stands in an epoch of BLOCKS blocks: (groups, SIZE)."""
    sizes = np.full(WIDTH * BLOCKS, SIZE)
    order = SourceOrder(sizes, 1, WIDTH, mix(11)).epoch(epoch)
    blocks = [order.block(number) for number in range(BLOCKS)]
    group, row = np.concatenate([block.rows(block.numbers) for block in blocks], axis=1)
    places = np.empty((len(sizes), SIZE), dtype=np.int64)
    places[group, row] = np.arange(places.size)
    return places


def _plainly_shuffled(generator: np.random.Generator) -> np.ndarray:
    """The same of groups shuffled, cut into blocks, and every block's rows shuffled: NumPy's own."""
    blocks = generator.permutation(WIDTH * BLOCKS).reshape(BLOCKS, WIDTH)
    places = np.empty((WIDTH * BLOCKS, SIZE), dtype=np.int64)
    for number, groups in enumerate(blocks):
        within = generator.permutation(WIDTH * SIZE).reshape(WIDTH, SIZE)
        places[groups] = number * WIDTH * SIZE + within
    return places


def test_every_row_has_one_place_in_an_epoch():
    assert np.array_equal(np.sort(_places(0).reshape(-1)), np.arange(WIDTH * BLOCKS * SIZE))


@pytest.mark.parametrize("epoch", [0, 1])
def test_where_a_row_is_stored_tells_nothing_about_when_it_comes(epoch):
    places = _places(epoch)
    # groups go to blocks as wholes: so many independent draws has the correlation
    bound = 4 / np.sqrt(len(places))
    assert abs(np.corrcoef(places.reshape(-1), np.arange(places.size))[0, 1]) < bound
    for column in (0, 7, SIZE - 1):
        assert abs(np.corrcoef(places[:, column], np.arange(len(places)))[0, 1]) < bound
    # rows stored side by side in different groups
    assert abs(np.corrcoef(places[:-1, -1], places[1:, 0])[0, 1]) < bound


@pytest.mark.parametrize("lag", [1, 2, SIZE - 1])
def test_inside_a_block_rows_stored_near_each_other_are_uncorrelated(lag):
    within = _places(0) % (WIDTH * SIZE)
    found = np.corrcoef(within[:, :-lag].reshape(-1), within[:, lag:].reshape(-1))[0, 1]
    # A group's rows take turns drawn without replacement: -1/(SIZE - 1) of the variance they have.
    assert abs(found + 1 / (SIZE - 1)) < 4 / np.sqrt(within[:, lag:].size)


def test_the_distances_of_rows_stored_side_by_side_are_those_of_a_plain_shuffle_of_blocks():
    generator = np.random.default_rng(0)
    deciles = np.linspace(0.1, 1, 10)
    found, plain = (
        [np.abs(np.diff(places, axis=1)).reshape(-1) for places in drawn]
        for drawn in (map(_places, range(4)), [_plainly_shuffled(generator) for _ in range(4)])
    )
    ours, theirs = (np.quantile(np.concatenate(of), deciles) for of in (found, plain))
    # a group's turns are WIDTH places apart, so that distances are rounded to that
    assert (np.abs(ours - theirs) <= 1.5 * WIDTH).all()
    # the block's width is the whole explanation: |a - b| of two places drawn from it
    expected = WIDTH * SIZE * (1 - np.sqrt(1 - deciles))
    assert (np.abs(ours - expected) <= 1.5 * WIDTH).all()
    across = np.concatenate(
        [np.abs(places[1:, 0] - places[:-1, -1]) for places in map(_places, range(4))]
    )
    law = 1 - (1 - np.sort(across) / (WIDTH * BLOCKS * SIZE)) ** 2
    # Kolmogorov's distance, at a level of one in a thousand (1.95 / sqrt(n))
    empirical = (np.arange(len(law)) + 0.5) / len(law)
    assert np.abs(law - empirical).max() < 1.95 / np.sqrt(len(law))


def test_which_groups_share_a_block_is_drawn_anew_in_each_epoch():
    first, second = (_places(epoch)[:, 0] // (WIDTH * SIZE) for epoch in (0, 1))
    together = np.zeros((BLOCKS, BLOCKS))
    np.add.at(together, (first, second), 1)
    # Expected in every cell: WIDTH / BLOCKS; chi-square with (BLOCKS - 1)^2 degrees of freedom.
    expected, freedom = WIDTH / BLOCKS, (BLOCKS - 1) ** 2
    statistic = float(((together - expected) ** 2 / expected).sum())
    assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom)
