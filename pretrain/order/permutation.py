"""A keyed permutation of range(n) that can be read at any place, forwards and backwards, without a table.

A balanced Feistel network permutes range(4**h), the smallest such range that holds n; a value that
falls outside range(n) is sent through again until it falls inside (cycle walking), which keeps the
map a permutation of range(n) and takes fewer than four passes on average.

Sources: Luby and Rackoff, "How to construct pseudorandom permutations from pseudorandom functions",
SIAM J. Comput. 17 (1988), for the network; Black and Rogaway, "Ciphers with arbitrary finite
domains", CT-RSA 2002, for cycle walking; Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014, for SplitMix64, the mixing inside. Nothing comes from numpy.random: the
values are 64-bit integer arithmetic only, hence equal on every machine and in every library version.
"""

import numpy as np
from numpy.typing import ArrayLike

# SplitMix64's increment and its output function (variant 13 of Stafford's mixers).
_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_STEPS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_LAST_SHIFT = np.uint64(31)

# Four rounds are enough of a strong cipher's rounds on a large range; on a range of a few values more
# are needed to reach all its permutations, and a round costs little.
_ROUNDS = 8


def mix(*values: ArrayLike) -> np.ndarray:
    """Hash integers to uint64, in order: a key for every purpose, epoch or row.

    Integers are taken modulo 2**64; arrays broadcast against each other. `mix(0)` is the first output of
    SplitMix64 seeded with 0, and each further value enters by exclusive or.
    """
    state = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for value in values:
            state = _scramble((state ^ _as_uint64(value)) + _INCREMENT)
    return state


def permute(index: ArrayLike, n: int, key: ArrayLike) -> np.ndarray:
    """Give the images of `index`, integers in range(n), under the permutation that `key` names.

    Same shape, uint64. Raises ValueError for an index outside range(n).
    """
    return _walk(index, n, [mix(key, number) for number in range(_ROUNDS)], inverse=False)


def invert(image: ArrayLike, n: int, key: ArrayLike) -> np.ndarray:
    """Give what `permute` sends to `image`: invert(permute(i, n, key), n, key) == i."""
    return _walk(image, n, [mix(key, number) for number in reversed(range(_ROUNDS))], inverse=True)


def _walk(values: ArrayLike, n: int, keys: list[np.ndarray], inverse: bool) -> np.ndarray:
    result = np.array(_as_uint64(values), ndmin=1)
    if not 0 < n <= 2**62:
        raise ValueError(f"a permutation of range(n) needs n from 1 to 2**62, got {n}")
    if (result >= np.uint64(n)).any():
        raise ValueError(f"an index lies outside range({n})")
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    flat = result.reshape(-1)
    outside = np.arange(flat.size)
    while outside.size:
        moved = _feistel(flat[outside], half, keys, inverse)
        flat[outside] = moved
        outside = outside[moved >= np.uint64(n)]
    return result.reshape(np.shape(values))


def _feistel(values: np.ndarray, half: int, keys: list[np.ndarray], inverse: bool) -> np.ndarray:
    """One pass through the network on range(4**half); the inverse undoes the rounds in turn."""
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> shift, values & mask
    if inverse:
        left, right = right, left
    for key in keys:
        left, right = right, left ^ (mix(key, right) & mask)
    if inverse:
        left, right = right, left
    return (left << shift) | right


def _scramble(state: np.ndarray) -> np.ndarray:
    for shift, factor in _STEPS:
        state = (state ^ (state >> shift)) * factor
    return state ^ (state >> _LAST_SHIFT)


def _as_uint64(value: ArrayLike) -> np.ndarray:
    if isinstance(value, int):
        return np.array(value % 2**64, dtype=np.uint64)
    return np.asarray(value).astype(np.uint64)
