"""MinHash signatures of texts: datatrove's hash functions, computed for many documents at once.

The permutations, the minimum over a document's shingles and the buckets are those of datatrove's
MinhashDedupSignature (its seed, 64-bit precision), bit for bit for the same shingles. The shingles themselves
are hashed from words.py's word hashes, because datatrove's splitter for English does 535 documents/s.
Two texts of Jaccard similarity s meet in a bucket with probability 1 - (1 - s**hashes)**buckets: with
8 and 14, 0.9 % at s = 0.4, 56 % at 0.7, 99.96 % at 0.9.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xxhash

from data_prep.curate.clusters import NO_KEY
from data_prep.curate.words import hash_texts, run_hashes

SEED = 1  # datatrove's MinhashConfig.seed
_PRIME = np.uint64((1 << 61) - 1)  # Mersenne; the hash functions are (a x + b) modulo it
_PRIME_BITS = np.uint64(61)
_BLOCK = 1 << 16  # shingles whose hashes are in memory at once: 512 KB an array


class MinHash:
    """Bucket keys of texts, for `words` in a shingle, `buckets`, and `hashes` in a bucket."""

    def __init__(self, words: int, buckets: int, hashes: int):
        self.words, self.buckets, self.hashes = words, buckets, hashes
        # As datatrove draws them: all factors, then all summands.
        drawn = np.random.RandomState(SEED)
        number = buckets * hashes
        self._factors = drawn.randint(1, _PRIME, dtype=np.uint64, size=number)
        self._summands = drawn.randint(0, _PRIME, dtype=np.uint64, size=number)

    def bucket_keys(self, texts: Sequence[str]) -> np.ndarray:
        """A 64-bit key a text and bucket: uint64, shape (texts, buckets); NO_KEY for too short a text.

        Equal keys stand for equal hashes of the bucket (XXH3 of them, an eighth of their size): among 38
        million documents two that differ have an equal key in 14 buckets with a probability of
        14 * 38e6**2 / 2**65 = 0.0005.
        """
        shingles, counts = self.shingles(texts)
        keys = np.full((len(texts), self.buckets), NO_KEY, dtype=np.uint64)
        hashed = counts > 0
        signatures = self.signatures(shingles, counts[hashed]).astype("<u8").tobytes()
        size = self.hashes * 8
        drawn = [
            xxhash.xxh3_64_intdigest(signatures[start : start + size]) or 1  # 0 is NO_KEY
            for start in range(0, len(signatures), size)
        ]
        keys[hashed] = np.array(drawn, dtype=np.uint64).reshape(-1, self.buckets)
        return keys

    def shingles(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Hashes of the texts' shingles one after another, and how many each text has: uint64, int64."""
        hashes, offsets = hash_texts(texts)
        counts = np.maximum(np.diff(offsets) - self.words + 1, 0)
        runs = run_hashes(hashes, self.words)
        # A run that begins in a text's last words would reach into the next text: those are left out.
        skipped = offsets[:-1] - (np.cumsum(counts) - counts)
        return runs[np.arange(counts.sum()) + np.repeat(skipped, counts)], counts

    def signatures(self, shingles: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Minimum of each hash function over each text's shingles: uint64, shape (texts, functions).

        `counts` (each 1 or more) says how many of `shingles` belong to each text, in order.
        """
        signatures = np.full((len(counts), len(self._factors)), _PRIME, dtype=np.uint64)
        ends = np.cumsum(counts)
        for start in range(0, len(shingles), _BLOCK):
            block = shingles[start : start + _BLOCK]
            first, last = np.searchsorted(ends, [start, start + len(block) - 1], side="right")
            begins = np.maximum(ends[first : last + 1] - counts[first : last + 1] - start, 0)
            self._lower(signatures[first : last + 1], block, begins)
        return signatures

    def _lower(self, signatures: np.ndarray, shingles: np.ndarray, begins: np.ndarray) -> None:
        """Lower the signatures to the hashes of their shingles, which begin at `begins`."""
        hashed, high = np.empty_like(shingles), np.empty_like(shingles)
        for number, (factor, summand) in enumerate(zip(self._factors, self._summands, strict=True)):
            np.multiply(shingles, factor, out=hashed)
            np.add(hashed, summand, out=hashed)
            # Modulo a Mersenne prime without dividing: the high bits added to the low ones, and the
            # prime taken off where they reach it (elsewhere that wraps round to a large number).
            np.right_shift(hashed, _PRIME_BITS, out=high)
            np.bitwise_and(hashed, _PRIME, out=hashed)
            np.add(hashed, high, out=hashed)
            np.subtract(hashed, _PRIME, out=high)
            np.minimum(hashed, high, out=hashed)
            lowest = np.minimum.reduceat(hashed, begins)
            np.minimum(signatures[:, number], lowest, out=signatures[:, number])
