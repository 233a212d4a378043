import random

import numpy as np
import pytest
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.word_tokenizers import WordTokenizer

from data_prep.curate import minhash as module
from data_prep.curate.clusters import NO_KEY
from data_prep.curate.minhash import MinHash
from data_prep.curate.words import hash_words, run_hashes, words


class Splitter(WordTokenizer):
    """datatrove's interface; its own splitters need packages that are not needed here."""

    def word_tokenize(self, text):
        return words(text)

    def sent_tokenize(self, text):
        return [text]

    def span_tokenize(self, text):
        return [(0, len(text))]


@pytest.mark.parametrize("block", [7, 1 << 16])
@pytest.mark.parametrize(("buckets", "hashes"), [(14, 8), (3, 2)])
def test_signatures_are_datatroves_bit_for_bit(tmp_path, monkeypatch, block, buckets, hashes):
    monkeypatch.setattr(module, "_BLOCK", block)
    config = MinhashConfig(n_grams=5, num_buckets=buckets, hashes_per_bucket=hashes)
    theirs = MinhashDedupSignature(str(tmp_path), config, language=Splitter())
    drawn = np.random.default_rng(0)
    counts = np.array([1, 6, 30, 7, 1, 100, 14])
    shingles = drawn.integers(0, 2**64, counts.sum(), dtype=np.uint64)
    shingles[:3] = [0, 2**64 - 1, 2**61 - 1]
    ours = MinHash(5, buckets, hashes).signatures(shingles, counts)
    parts = np.split(shingles, np.cumsum(counts)[:-1])
    expected = [theirs.get_signature(part.reshape(-1, 1)) for part in parts]
    np.testing.assert_array_equal(ours.reshape(-1, buckets, hashes), np.array(expected, np.uint64))


def test_hashes_at_the_modulus_wrap_as_a_division_does():
    """The factor and summand of which a shingle's hash is the prime itself, or just above it."""
    minhash = MinHash(5, 1, 1)
    prime = (1 << 61) - 1
    minhash._factors[:] = 1
    for summand in (0, 1, 5):
        minhash._summands[:] = summand
        for value in (prime - 1, prime, prime + 3, 8 * prime, 2**64 - 1):
            ours = minhash.signatures(np.array([value], np.uint64), np.array([1]))
            assert int(ours[0, 0]) == (value + summand) % 2**64 % prime


def test_shingles_are_runs_of_words_within_a_text():
    texts = ["one two three four", "", "a b", "five six seven eight nine", "癌症的治疗"]
    shingles, counts = MinHash(3, 2, 2).shingles(texts)
    expected = [run_hashes(hash_words(words(text)), 3) for text in texts]
    assert counts.tolist() == [2, 0, 0, 3, 3]
    np.testing.assert_array_equal(shingles, np.concatenate(expected))


def test_equal_texts_have_equal_keys_whatever_is_hashed_with_them():
    text = "Aspirin reduces the risk of a second stroke in most patients."
    minhash = MinHash(5, 14, 8)
    alone = minhash.bucket_keys([text])
    among = minhash.bucket_keys(["too short", text.upper(), "", "word " * 500, text])
    assert (among[[1, 4]] == alone).all()
    assert (among[[0, 2]] == NO_KEY).all()
    assert (alone != NO_KEY).all()
    assert len(np.unique(alone)) == 14
    assert minhash.bucket_keys([]).shape == minhash.bucket_keys(["", "no"])[:0].shape == (0, 14)


@pytest.mark.parametrize("similarity", [0.4, 0.6, 0.75, 0.9])
def test_pairs_meet_as_often_as_the_formula_says(similarity):
    """Shingles of one word make the Jaccard similarity exact: shared words over all words."""
    drawn = random.Random(similarity)
    size, pairs = 180, 400
    shared = round(size * similarity)
    texts = []
    for _ in range(pairs):
        vocabulary = [f"w{drawn.getrandbits(60)}" for _ in range(size)]
        middle = shared + (size - shared) // 2
        texts += [
            " ".join(vocabulary[:middle]),
            " ".join(vocabulary[:shared] + vocabulary[middle:]),
        ]
    keys = MinHash(1, 14, 8).bucket_keys(texts)
    met = (keys[::2] == keys[1::2]).any(axis=1).mean()
    expected = 1 - (1 - (shared / size) ** 8) ** 14
    deviation = (expected * (1 - expected) / pairs) ** 0.5
    assert abs(met - expected) < 4 * deviation + 1 / pairs
