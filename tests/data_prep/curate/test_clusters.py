import random

import numpy as np
import pytest

from data_prep.curate.clusters import NO_KEY, Clusters, pairs_of_equals


def reference(rows, columns):
    """Smallest row of each row's set, found by walking."""
    beside = {row: set() for row in range(rows)}
    for keys in columns:
        holders = {}
        for row, key in enumerate(keys):
            if key != NO_KEY:
                holders.setdefault(key, []).append(row)
        for same in holders.values():
            for row in same:
                beside[row].update(same)
    smallest = [-1] * rows
    for row in range(rows):
        if smallest[row] < 0:
            reached, border = {row}, [row]
            while border:
                border = [far for near in border for far in beside[near] if far not in reached]
                reached.update(border)
            for far in reached:
                smallest[far] = row
    return smallest


@pytest.mark.parametrize("seed", range(20))
def test_sets_are_those_of_a_walk(seed):
    drawn = random.Random(seed)
    rows = drawn.choice([1, 2, 10, 200])
    values = [drawn.getrandbits(64) for _ in range(drawn.choice([1, rows, 3 * rows]))]
    columns = [drawn.choices([NO_KEY, *values], k=rows) for _ in range(drawn.randint(1, 6))]
    clusters = Clusters(rows)
    for column in columns:
        for left, right in pairs_of_equals(np.array(column, np.uint64)):
            clusters.join(left, right)
    assert clusters.smallest_rows().tolist() == reference(rows, columns)


def test_a_long_chain_is_one_set():
    rows = 5000
    order = np.random.default_rng(0).permutation(rows)
    clusters = Clusters(rows)
    for start in (0, 1):  # links 0-1 2-3 ..., then 1-2 3-4 ...
        left, right = order[start : rows - 1 : 2], order[start + 1 :: 2]
        clusters.join(left, right)
    assert not clusters.smallest_rows().any()


def test_extreme_keys_and_no_rows():
    keys = np.array([2**64 - 1, NO_KEY, 1, 2**64 - 1, NO_KEY, 1], np.uint64)
    found = [
        pair for left, right in pairs_of_equals(keys) for pair in zip(left, right, strict=True)
    ]
    assert sorted(found) == [(0, 3), (2, 5)]
    assert len(Clusters(0).smallest_rows()) == 0
