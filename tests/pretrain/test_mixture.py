"""The mixture schedule against exact shares, in fractions, over many weight vectors."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from data_prep.errors import ConfigError
from pretrain.mixture import Mixture

_HASHED = [
    tuple(1 + (7919 * (seed + 3) ** (k + 2)) % bound for k in range(size))
    for seed in range(12)
    for size, bound in ((2, 50), (3, 40), (5, 30), (8, 20), (12, 9))
]
WEIGHTS = [
    *product(range(1, 7), repeat=2),
    *product(range(1, 6), repeat=3),
    *product((1, 2, 5), repeat=4),
    (15, 4, 1), (97, 1, 1, 1), (1,) * 30, (100, 99, 1), (1, 1000), (3,),
    *_HASHED,
]  # fmt: skip


@pytest.mark.parametrize("part", range(4))
def test_in_every_prefix_each_source_is_less_than_one_from_its_share(part):
    for weights in WEIGHTS[part::4]:
        mixture, total = Mixture(weights), sum(weights)
        counts = [0] * len(weights)
        for n in range(1, mixture.period + 1):
            counts[mixture.source(n - 1)] += 1
            # n * weight / total - count, over the common denominator
            assert all(
                abs(n * weight - count * total) < total
                for weight, count in zip(weights, counts, strict=True)
            ), (weights, n, counts)
        assert [Fraction(count, mixture.period) for count in counts] == [
            Fraction(weight, total) for weight in weights
        ]


@pytest.mark.parametrize("weights", [(15, 4, 1), (1,), (2, 3), (6, 4, 2), (1, 1, 1, 7)])
def test_ordinals_count_the_earlier_sequences_of_the_source_and_positions_invert_them(weights):
    mixture = Mixture(weights)
    source, ordinal = mixture.assign(np.arange(500))
    seen = [0] * len(weights)
    for n in range(500):
        assert source[n] == mixture.source(n)
        assert ordinal[n] == seen[source[n]]
        assert mixture.position(source[n], ordinal[n]) == n
        seen[source[n]] += 1


def test_far_places_cost_nothing_and_invert():
    mixture = Mixture((15, 4, 1))
    far = 10**15 + np.arange(100)
    source, ordinal = mixture.assign(far)
    assert [mixture.position(s, k) for s, k in zip(source, ordinal, strict=True)] == far.tolist()


def test_weights_with_a_common_divisor_give_the_same_schedule():
    ns = np.arange(200)
    for one, other in zip(
        Mixture((150, 40, 10)).assign(ns), Mixture((15, 4, 1)).assign(ns), strict=True
    ):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("weights", [(1, 0), (1, -2), (0.5, 0.5), (True, 1), ("3", 1), (None,)])
def test_a_weight_that_is_no_positive_integer_is_refused(weights):
    with pytest.raises(ConfigError, match="not a positive integer"):
        Mixture(weights)


def test_no_source_and_too_fine_shares_are_refused():
    with pytest.raises(ConfigError, match="no sources"):
        Mixture(())
    with pytest.raises(ConfigError, match="round them"):
        Mixture((1_000_003, 999_983))
