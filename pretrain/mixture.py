"""Which source each sequence of the run comes from: a periodic schedule for integer weights.

Tijdeman's chairman assignment: in every prefix of the schedule each source's count differs from its
exact share by at most 1 - 1/(2k - 2) for k sources, hence by less than one. (R. Tijdeman, "The chairman
assignment problem", Discrete Mathematics 32, 1980, 323-330.) With constant weights the schedule repeats
after sum(weights) sequences, so a table of one period answers for any place.
"""

from collections.abc import Sequence
from math import gcd

import numpy as np

from data_prep.errors import ConfigError

# The table holds one entry for each sequence of a period; finer shares than this cannot be told apart
# in a run and would make the table slow to build.
LONGEST_PERIOD = 100_000


class Mixture:
    """The source of every sequence number, and the number of every source's sequences.

    `weights` holds the reduced weights, `period` their sum. Raises ConfigError for a weight that is no
    positive integer and for reduced weights whose sum exceeds LONGEST_PERIOD.
    """

    def __init__(self, weights: Sequence[int]):
        for weight in weights:
            if isinstance(weight, bool) or not isinstance(weight, int | np.integer) or weight < 1:
                raise ConfigError(
                    f"mixture: weight {weight!r} is not a positive integer; write shares as integers, "
                    "15 : 4 : 1 say, and leave out a source that should not be read"
                )
        if not weights:
            raise ConfigError("mixture: no sources; name at least one shard set")
        divisor = gcd(*(int(weight) for weight in weights))
        self.weights = [int(weight) // divisor for weight in weights]
        self.period = sum(self.weights)
        if self.period > LONGEST_PERIOD:
            raise ConfigError(
                f"mixture: weights {self.weights} (reduced) sum to {self.period:,}, more than "
                f"{LONGEST_PERIOD:,}; round them to smaller integers"
            )
        self._source = _chairmen(self.weights)
        # places[first[s] + k] is where, within a period, the k-th sequence of source s stands
        self._places = np.argsort(self._source, kind="stable")
        self._first = np.concatenate([[0], np.cumsum(self.weights)])
        self._ordinal = np.empty(self.period, dtype=np.int64)
        self._ordinal[self._places] = np.arange(self.period) - np.repeat(
            self._first[:-1], self.weights
        )
        self._weight_array = np.array(self.weights, dtype=np.int64)

    def source(self, n: int) -> int:
        """The index of the source of sequence n."""
        return int(self._source[n % self.period])

    def assign(self, ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give for sequences `ns` their sources, and how many earlier sequences each of those had (int64)."""
        periods, place = np.divmod(np.asarray(ns, dtype=np.int64), self.period)
        source = self._source[place]
        return source, periods * self._weight_array[source] + self._ordinal[place]

    def position(self, source: int, ordinal: int) -> int:
        """The number n of the sequence with this source and ordinal: the inverse of `assign`."""
        periods, k = divmod(int(ordinal), self.weights[source])
        return periods * self.period + int(self._places[self._first[source] + k])


def _chairmen(weights: list[int]) -> np.ndarray:
    """Tijdeman's schedule over one period, in integers: every term is times period x (2k - 2)."""
    period, scale = sum(weights), 2 * len(weights) - 2
    chosen = np.zeros(period, dtype=np.int64)
    if scale == 0:
        return chosen
    counts = [0] * len(weights)
    for n in range(1, period + 1):
        best, best_wait = -1, 0
        for source, weight in enumerate(weights):
            behind = (n * weight - counts[source] * period) * scale
            if behind < period:
                continue  # choosing it now would put it too far ahead of its share
            # over its weight: how long the source can still be passed over within its bound
            wait = (scale - 1) * period - behind
            if best < 0 or wait * weights[best] < best_wait * weight:
                best, best_wait = source, wait
        counts[best] += 1
        chosen[n - 1] = best
    return chosen
