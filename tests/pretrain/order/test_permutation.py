"""The keyed permutation, checked place by place and against published SplitMix64 values."""

import numpy as np
import pytest

from pretrain.order.permutation import invert, mix, permute


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 255, 1000, 4097, 100_003])
def test_every_value_appears_exactly_once_and_the_inverse_finds_it(n):
    for key in (0, 1, 2**64 - 1):
        image = permute(np.arange(n), n, key)
        assert np.array_equal(np.sort(image), np.arange(n, dtype=np.uint64))
        assert np.array_equal(invert(image, n, key), np.arange(n, dtype=np.uint64))


def test_large_ranges_invert_and_stay_inside():
    for n in (10**9 + 7, 2**40, 2**40 + 1, 2**62):
        index = mix(5, np.arange(2000)) % np.uint64(n)
        image = permute(index, n, 42)
        assert (image < n).all()
        assert np.array_equal(invert(image, n, 42), index)


def test_one_place_reads_the_same_alone_and_among_others():
    together = permute(np.arange(1000), 1000, 7)
    assert [int(permute(place, 1000, 7)) for place in (0, 1, 500, 999)] == [
        int(together[place]) for place in (0, 1, 500, 999)
    ]


def test_mix_gives_the_published_splitmix64_values():
    # The generator seeded with s gives mix(s), mix(s + increment), ...; the first outputs for seeds 0
    # and 1234567 stand in the public test vectors of many implementations.
    increment = 0x9E3779B97F4A7C15
    assert [int(mix(k * increment)) for k in range(3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]
    assert [int(mix(1234567 + k * increment)) for k in range(5)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def _splitmix64(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) % 2**64
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
    return state ^ (state >> 31)


def _plain_permute(index: int, n: int, key: int) -> int:
    """The same network in Python integers, one value at a time."""
    half = 1
    while 4**half < n:
        half += 1
    while True:
        left, right = index >> half, index % 2**half
        for number in range(8):
            of_round = _splitmix64(_splitmix64(key) ^ number)
            left, right = right, left ^ (_splitmix64(_splitmix64(of_round) ^ right) % 2**half)
        index = left << half | right
        if index < n:
            return index


@pytest.mark.parametrize("n", [2, 10, 16, 100, 5000])
def test_values_equal_those_of_plain_integers(n):
    for key in (3, 2**63 + 11):
        places = range(0, n, max(1, n // 50))
        expected = [_plain_permute(place, n, key) for place in places]
        assert permute(list(places), n, key).tolist() == expected


def test_keys_and_the_order_of_their_parts_matter():
    keys = [mix(1, 2), mix(2, 1), mix(1), mix(1, 0), mix(0, 1), mix(-1), mix(2**64 - 2)]
    assert len({int(key) for key in keys}) == len(keys)
    orders = {tuple(permute(np.arange(50), 50, key).tolist()) for key in keys}
    assert len(orders) == len(keys)


def test_images_are_spread_as_chance_would_spread_them():
    # Each of 24 orders of 4 values is as likely as another: chi-square with 23 degrees of freedom,
    # whose 99.99 % point is 54.
    trials = 4800
    counts: dict[tuple[int, ...], int] = {}
    for key in range(trials):
        order = tuple(permute(np.arange(4), 4, key).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    assert sum((count - trials / 24) ** 2 / (trials / 24) for count in counts.values()) < 54


def test_neighbours_are_uncorrelated():
    n = 100_000
    image = permute(np.arange(n), n, 9).astype(float)
    for lag in (1, 2, 16, 256):
        correlation = np.corrcoef(image[:-lag], image[lag:])[0, 1]
        assert abs(correlation) < 4 / np.sqrt(n)


def test_an_index_outside_the_range_is_refused():
    with pytest.raises(ValueError, match="outside"):
        permute(10, 10, 1)
    with pytest.raises(ValueError, match="needs n"):
        permute([], 0, 1)
