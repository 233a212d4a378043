"""The mixture schedule against exact shares, in fractions, over many weight vectors."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from data_prep.errors import ConfigError
from pretrain.order.mixture import Mixture

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


# Some sources are not read: a phase's weights may be 0.
WITH_ZEROS = [(0, 1), (3, 0, 2), (0, 0, 5, 1, 0), (1, 0, 1, 0, 1)]


def _schedule(mixture: Mixture, length: int) -> list[int]:
    """The source of each of the first `length` sequences: the one whose count it raises."""
    counts = np.stack([mixture.counts(n) for n in range(length + 1)])
    raised = np.diff(counts, axis=0)
    assert ((raised == 0) | (raised == 1)).all()
    assert (raised.sum(axis=1) == 1).all()
    return np.argmax(raised, axis=1).tolist()


@pytest.mark.parametrize("part", range(4))
def test_in_every_prefix_each_source_is_less_than_one_from_its_share(part):
    for weights in [*WEIGHTS, *WITH_ZEROS][part::4]:
        mixture, total = Mixture(weights), sum(weights)
        for n in range(1, mixture.period + 1):
            counts = mixture.counts(n).tolist()
            assert sum(counts) == n
            # n * weight / total - count, over the common denominator
            assert all(
                abs(n * weight - count * total) < total
                for weight, count in zip(weights, counts, strict=True)
            ), (weights, n, counts)
        assert [Fraction(count, mixture.period) for count in counts] == [
            Fraction(weight, total) for weight in weights
        ]


@pytest.mark.parametrize(
    "weights", [(15, 4, 1), (1,), (2, 3), (6, 4, 2), (1, 1, 1, 7), *WITH_ZEROS]
)
def test_counts_count_the_earlier_sequences_of_each_source_and_positions_invert_them(weights):
    mixture = Mixture(weights)
    seen = [0] * len(weights)
    for n, source in enumerate(_schedule(mixture, 500)):
        assert mixture.counts(n).tolist() == seen
        assert mixture.position(source, seen[source]) == n
        seen[source] += 1


def test_far_places_cost_nothing_and_invert():
    mixture = Mixture((15, 4, 1))
    for far in range(10**15, 10**15 + 100):
        counts = mixture.counts(far)
        source = int(np.argmax(mixture.counts(far + 1) - counts))
        assert mixture.position(source, counts[source]) == far


def test_weights_with_a_common_divisor_give_the_same_schedule():
    assert _schedule(Mixture((150, 40, 10)), 200) == _schedule(Mixture((15, 4, 1)), 200)


def test_sources_that_are_not_read_leave_the_schedule_of_the_others_alone():
    with_them = _schedule(Mixture((0, 15, 0, 4, 1)), 200)
    assert [(1, 3, 4).index(source) for source in with_them] == _schedule(Mixture((15, 4, 1)), 200)


@pytest.mark.parametrize("weights", [(1, -2), (0.5, 0.5), (True, 1), ("3", 1), (None,)])
def test_a_weight_that_is_no_integer_from_0_is_refused(weights):
    with pytest.raises(ConfigError, match="not an integer from 0"):
        Mixture(weights)


@pytest.mark.parametrize("weights", [(), (0,), (0, 0)])
def test_a_mixture_in_which_nothing_is_read_is_refused(weights):
    with pytest.raises(ConfigError, match="no sources are read"):
        Mixture(weights)


def test_too_fine_shares_are_refused():
    with pytest.raises(ConfigError, match="round them"):
        Mixture((1_000_003, 999_983))
