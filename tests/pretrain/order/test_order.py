"""The order of sequences, held against brute force over whole small runs."""

import hashlib
from collections import Counter
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from data_prep.errors import ConfigError
from pretrain.order.order import Order, Rows, SourceRows
from pretrain.order.permutation import mix, permute

# Groups of a fixed size with a short one at the end of each file, and sources of unequal length.
BOOKS = SourceRows("books", np.array([8, 8, 8, 5, 8, 8, 8, 3, 8, 8]))
PAPERS = SourceRows("papers", np.array([8] * 11 + [1]))
GENERAL = SourceRows("general", np.array([4, 4, 2]))


def _order(seed: int = 7, global_batch: int = 12, shuffle_groups: int = 4) -> Order:
    return Order([BOOKS, PAPERS, GENERAL], [5, 2, 1], seed, global_batch, shuffle_groups)


def _one_source(row_groups: np.ndarray, seed=0, global_batch=16, shuffle_groups=16) -> Order:
    return Order([SourceRows("only", row_groups)], [1], seed, global_batch, shuffle_groups)


def _tuples(rows: Rows) -> list[tuple[int, int, int, int]]:
    columns = (rows.source, rows.epoch, rows.group, rows.row)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _all_rows(source: SourceRows) -> set[tuple[int, int]]:
    return {(group, row) for group, rows in enumerate(source.row_groups) for row in range(rows)}


@pytest.mark.parametrize("shuffle_groups", [1, 3, 4, 1000])
def test_every_row_appears_exactly_once_in_each_epoch_of_its_source(shuffle_groups):
    order = _order(shuffle_groups=shuffle_groups)
    seen: Counter[tuple[int, int, int, int]] = Counter()
    for step in range(120):
        seen.update(_tuples(order.batch(step)))
    assert set(seen.values()) == {1}
    for number, source in enumerate((BOOKS, PAPERS, GENERAL)):
        epochs = Counter(epoch for place, epoch, _, _ in seen if place == number)
        finished = [epoch for epoch in epochs if epoch + 1 in epochs]
        assert finished == list(range(len(finished)))
        assert len(finished) >= 4
        for epoch in finished:
            rows = {key[2:] for key in seen if key[:2] == (number, epoch)}
            assert rows == _all_rows(source)


def test_a_step_reads_the_same_alone_and_after_any_other():
    straight = [_tuples(_order().batch(step)) for step in range(60)]
    walked = _order()
    for step in [59, 0, 31, 30, 7, 58, 8, *range(60)]:
        assert _tuples(walked.batch(step)) == straight[step]


def test_batches_are_sorted_by_source_group_and_row_of_each_block():
    order = _order()
    for step in range(50):
        rows = order.batch(step)
        assert rows.source.tolist() == sorted(rows.source.tolist())
        for part in set(
            zip(rows.source.tolist(), rows.epoch.tolist(), rows.block.tolist(), strict=True)
        ):
            of = (rows.source == part[0]) & (rows.epoch == part[1]) & (rows.block == part[2])
            sizes = order.sources[part[0]].row_groups
            smaller = (sizes[rows.group[of]] < sizes.max()).tolist()
            keys = list(zip(smaller, rows.group[of].tolist(), rows.row[of].tolist(), strict=True))
            assert keys == sorted(keys)
        columns = (rows.source, rows.group, rows.row, rows.epoch, rows.block)
        assert all(column.dtype == np.int64 for column in columns)


@pytest.mark.parametrize("shuffle_groups", [16, 48])
@pytest.mark.parametrize("world", [2, 4, 8])
def test_where_one_block_ends_and_the_next_begins_ranks_stay_with_their_groups(
    shuffle_groups, world
):
    # batches of a block and a half: every rank's groups are its part of each block, all the same
    sizes, global_batch = np.full(6 * shuffle_groups, 24), 36 * shuffle_groups
    order = _one_source(sizes, global_batch=global_batch, shuffle_groups=shuffle_groups)
    touched: dict[tuple[int, int], set[int]] = {}
    for step in range(4):
        rows = order.batch(step)
        for rank, place in enumerate(np.split(np.arange(global_batch), world)):
            for block, group in zip(
                rows.block[place].tolist(), rows.group[place].tolist(), strict=True
            ):
                touched.setdefault((rank, block), set()).add(group)
    assert len(touched) == 6 * world
    assert {len(groups) for groups in touched.values()} == {shuffle_groups // world}


def test_the_same_global_batch_sequence_whatever_the_batch_is_cut_into():
    # The sequences of one step of 24 are those of two steps of 12: the batch size only cuts the sequence.
    halves, whole = _order(global_batch=12), _order(global_batch=24)
    for step in range(30):
        both = _tuples(halves.batch(2 * step)) + _tuples(halves.batch(2 * step + 1))
        assert sorted(both) == sorted(_tuples(whole.batch(step)))


def test_each_source_stays_less_than_one_sequence_from_its_share():
    order = _order(global_batch=1)
    counts = np.zeros(3)
    for step in range(400):
        counts[order.batch(step).source[0]] += 1
        share = (step + 1) * np.array([5, 2, 1]) / 8
        assert (np.abs(counts - share) < 1).all()


@pytest.mark.parametrize("global_batch", [1, 12, 50])
def test_steps_of_inverts_the_batches(global_batch):
    order, stop = _order(global_batch=global_batch), 1200 // global_batch
    steps: dict[tuple[int, int, int], list[int]] = {}
    for step in range(stop):
        for place, _, group, row in _tuples(order.batch(step)):
            found = steps.setdefault((place, group, row), [])
            if step not in found:
                found.append(step)
    for number, source in enumerate((BOOKS, PAPERS, GENERAL)):
        for group, row in _all_rows(source):
            expected = steps.get((number, group, row), [])
            assert order.steps_of(number, group, row, stop) == expected


def test_a_row_that_no_group_holds_is_refused_by_steps_of():
    for group, row in ((10, 0), (-1, 0), (3, 5)):
        with pytest.raises(ConfigError, match=r"books.*no row"):
            _order().steps_of(0, group, row, 10)


def _described_epoch(source: SourceRows, seed: int, epoch: int, shuffle_groups: int):
    """An epoch's (group, row) in order, from the description in pretrain/order/source_order.py, in fractions."""
    name = int.from_bytes(hashlib.sha256(source.name.encode()).digest()[:8], "little")
    key = mix(mix(seed, name), epoch)
    sizes = source.row_groups.tolist()
    full = max(sizes)
    places = permute(np.arange(len(sizes)), len(sizes), mix(key, 1)).tolist()
    edges = [*range(0, len(sizes), shuffle_groups), len(sizes)]
    if len(edges) > 2:
        edges[-2] = (edges[-3] + edges[-1]) // 2
    for number, (first, stop) in enumerate(pairwise(edges)):
        groups = sorted(places[first:stop], key=lambda group: (sizes[group] < full, group))
        rows = [(group, row) for group in groups for row in range(sizes[group])]
        pieces = -(-len(rows) // full)
        digits = (pieces - 1).bit_length()
        mask = int(mix(key, 2, number)) % 2**digits
        keyed = []
        for index in range(pieces):
            mirrored = int(f"{index:0{digits}b}"[::-1], 2) if digits else 0
            turn = Fraction(mirrored ^ mask, 2**digits)
            piece = range(index * full, min((index + 1) * full, len(rows)))
            chances = [int(mix(mix(key, 3, number), place)) for place in piece]
            for rank, place in enumerate(np.argsort(chances).tolist()):
                # a smaller piece comes before another at the same time
                at = (rank + turn) / len(piece)
                keyed.append((at, len(piece), index, rows[piece[place]]))
        yield from (entry[-1] for entry in sorted(keyed))


@pytest.mark.parametrize("shuffle_groups", [1, 4, 7])
def test_the_order_is_the_one_described(shuffle_groups):
    for source in (BOOKS, PAPERS, GENERAL):
        order = Order([source], [1], 7, 1, shuffle_groups)
        rows = int(source.row_groups.sum())
        for epoch in (0, 3):
            found = [_tuples(order.batch(epoch * rows + place))[0][2:] for place in range(rows)]
            assert found == list(_described_epoch(source, 7, epoch, shuffle_groups))


def test_epochs_seeds_and_names_give_different_orders():
    sizes = np.full(40, 16)
    first = [_tuples(_one_source(sizes, seed=seed).batch(0)) for seed in (0, 1)]
    assert first[0] != first[1]
    one, other = (
        Order([SourceRows(name, sizes)], [1], 0, 16, 16).batch(0) for name in ("books", "papers")
    )
    assert _tuples(one) != _tuples(other)
    order = _one_source(sizes, global_batch=64)
    rows = {step: {key[2:] for key in _tuples(order.batch(step))} for step in (0, 10)}
    assert order.batch(10).epoch.tolist() == [1] * 64
    assert rows[0] != rows[10]


def _positions(sizes: np.ndarray, epoch: int, shuffle_groups: int) -> np.ndarray:
    """Where each row, numbered in set order, stands in an epoch."""
    order = _one_source(sizes, global_batch=1, shuffle_groups=shuffle_groups)
    first = np.cumsum(sizes) - sizes
    total = int(sizes.sum())
    place = np.empty(total, dtype=np.int64)
    for step in range(total):
        rows = order.batch(epoch * total + step)
        place[first[rows.group[0]] + rows.row[0]] = step
    return place


def test_neighbouring_rows_are_uncorrelated_in_the_order_and_between_epochs():
    # The whole set is one block: places are then those of a shuffle of all rows, stratified by group.
    sizes = np.full(64, 64)
    place = _positions(sizes, 0, 64).astype(float)
    bound = 4 / np.sqrt(len(place))
    for lag in (1, 2, 63, 64, 65):
        assert abs(np.corrcoef(place[:-lag], place[lag:])[0, 1]) < bound
    assert abs(np.corrcoef(place, np.arange(len(place)))[0, 1]) < bound
    assert abs(np.corrcoef(place, _positions(sizes, 1, 64))[0, 1]) < bound


def test_groups_of_a_block_come_from_all_over_the_source():
    order = _one_source(np.full(4096, 16), shuffle_groups=64, global_batch=64 * 16)
    places = np.concatenate([np.unique(order.batch(step).group) for step in range(8)])
    assert len(set(places.tolist())) == 8 * 64
    # 512 draws without replacement from range(4096): the mean lies within four standard errors
    assert abs(places.mean() - 2047.5) < 4 * 4096 / np.sqrt(12 * 512)


@pytest.mark.parametrize("window", [1, 5, 16, 24, 48])
def test_any_run_of_sequences_takes_evenly_from_the_groups_of_its_block(window):
    sizes = np.full(32, 24)
    order = _one_source(sizes, global_batch=1, shuffle_groups=16)
    groups = np.array([order.batch(step).group[0] for step in range(16 * 24)])
    members = np.unique(groups)
    assert len(members) == 16
    for start in range(len(groups) - window + 1):
        counts = [np.count_nonzero(groups[start : start + window] == group) for group in members]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("shuffle_groups", [16, 48])
@pytest.mark.parametrize("batches", [1, 1.5, 4])
@pytest.mark.parametrize("ragged", [False, True])
def test_a_rank_decodes_about_two_parts_in_world_of_a_block_at_most(
    shuffle_groups, batches, ragged
):
    sizes = np.full(4 * shuffle_groups, 24)
    if ragged:
        sizes[7::50] = 8  # the last group of every file
    global_batch = int(batches * shuffle_groups)
    order = _one_source(sizes, global_batch=global_batch, shuffle_groups=shuffle_groups)
    groups = [order.batch(step).group for step in range(int(sizes.sum()) // global_batch)]
    block_of = _blocks(sizes, shuffle_groups)
    for world in (2, 3, 4, shuffle_groups // 4, shuffle_groups // 2):
        share = -(-global_batch // world)
        touched: dict[tuple[int, int], set[int]] = {}
        for batch in groups:
            if len({block_of[group] for group in batch.tolist()}) > 1:
                continue  # one block ends, the next begins
            for rank in range(world):
                mine = batch[rank * share : (rank + 1) * share].tolist()
                touched.setdefault((rank, block_of[batch[0]]), set()).update(mine)
        # a short group is not in every batch, so the ranks' limits move by one group now and then
        assert max(map(len, touched.values())) <= -(-2 * shuffle_groups // world) + ragged


def _blocks(sizes: np.ndarray, shuffle_groups: int) -> dict[int, int]:
    """Which block every group is in: its first place in the epoch among the groups, in blocks."""
    order = _one_source(sizes, global_batch=1, shuffle_groups=shuffle_groups)
    first_met = dict.fromkeys(int(order.batch(step).group[0]) for step in range(int(sizes.sum())))
    return {group: place // shuffle_groups for place, group in enumerate(first_met)}


def test_the_fingerprint_changes_with_everything_that_determines_the_order_and_nothing_else():
    base = _order().fingerprint()
    assert Order([BOOKS, PAPERS, GENERAL], [10, 4, 2], 7, 12, 4).fingerprint() == base
    smaller = SourceRows("books", np.array([8, 8, 8, 8, 5, 8, 8, 3, 8, 8]))
    others = [
        _order(seed=8),
        _order(global_batch=13),
        _order(shuffle_groups=5),
        Order([BOOKS, PAPERS, GENERAL], [5, 2, 2], 7, 12, 4),
        Order([PAPERS, BOOKS, GENERAL], [5, 2, 1], 7, 12, 4),
        Order([smaller, PAPERS, GENERAL], [5, 2, 1], 7, 12, 4),
        Order([SourceRows("book", BOOKS.row_groups), PAPERS, GENERAL], [5, 2, 1], 7, 12, 4),
    ]
    assert len({base, *(order.fingerprint() for order in others)}) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([BOOKS], [1, 2], 0, 4, 4), "2 weights for 1 sources"),
        (([BOOKS, BOOKS], [1, 1], 0, 4, 4), "appears twice"),
        (([BOOKS], [1], 0, 0, 4), "global_batch is 0"),
        (([BOOKS], [1], 0, 4, 0), "shuffle_groups is 0"),
        (([BOOKS], [-1], 0, 4, 4), "not an integer from 0"),
        (([SourceRows("empty", np.array([], dtype=np.int64))], [1], 0, 4, 4), "no row groups"),
        (([SourceRows("hole", np.array([4, 0, 4]))], [1], 0, 4, 4), "row group 1 of source 'hole'"),
        (([], [], 0, 4, 4), "no sources"),
        (([SourceRows("uneven", np.array([4, 4, 4]), 2)], [1], 0, 4, 4), "not 2 equal epochs"),
        (([SourceRows("uneven", np.array([4, 4, 4, 3]), 2)], [1], 0, 4, 4), "not 2 equal epochs"),
    ],
)
def test_arguments_that_describe_no_run_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Order(*arguments)


def test_a_negative_step_is_refused():
    with pytest.raises(ConfigError, match="negative"):
        _order().batch(-1)
