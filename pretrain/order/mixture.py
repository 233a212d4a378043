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

    `weights` holds the reduced weights, `period` their sum; a source of weight 0 has no sequences. Raises
    ConfigError for a weight that is no integer from 0, for weights that are all 0, and for reduced weights
    whose sum exceeds LONGEST_PERIOD.
    """

    def __init__(self, weights: Sequence[int]):
        for weight in weights:
            if isinstance(weight, bool) or not isinstance(weight, int | np.integer) or weight < 0:
                raise ConfigError(
                    f"mixture: weight {weight!r} is not an integer from 0; write shares as integers, "
                    "15 : 4 : 1 say, and 0 for a source that is not read"
                )
        if not any(weights):
            raise ConfigError(
                "mixture: no sources are read; give at least one shard set a weight above 0"
            )
        divisor = gcd(*(int(weight) for weight in weights))
        self.weights = [int(weight) // divisor for weight in weights]
        self.period = sum(self.weights)
        if self.period > LONGEST_PERIOD:
            raise ConfigError(
                f"mixture: weights {self.weights} (reduced) sum to {self.period:,}, more than "
                f"{LONGEST_PERIOD:,}; round them to smaller integers"
            )
        schedule = _chairmen(self.weights)
        # of each source, where within a period its sequences stand
        self._places = [np.flatnonzero(schedule == source) for source in range(len(weights))]

    def counts(self, n: int) -> np.ndarray:
        """How many of the first n sequences each source has: (sources,) int64."""
        periods, rest = divmod(n, self.period)
        return np.array(
            [
                periods * weight + int(np.searchsorted(places, rest))
                for weight, places in zip(self.weights, self._places, strict=True)
            ],
            dtype=np.int64,
        )

    def position(self, source: int, ordinal: int) -> int:
        """The number n of the sequence that is this source's number `ordinal`: counts(n) is then that."""
        periods, k = divmod(int(ordinal), self.weights[source])
        return periods * self.period + int(self._places[source][k])


def _chairmen(weights: list[int]) -> np.ndarray:
    """Tijdeman's schedule over one period, in integers: every term is times period x (2k - 2)."""
    read = [source for source, weight in enumerate(weights) if weight]
    period, scale = sum(weights), 2 * len(read) - 2
    chosen = np.full(period, read[0], dtype=np.int64)
    if scale == 0:
        return chosen
    counts = [0] * len(weights)
    for n in range(1, period + 1):
        best, best_wait = -1, 0
        for source in read:
            weight = weights[source]
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
