"""Texts as normalised words, and runs of words as 64-bit hashes: what near-duplicates and benchmarks share.

Words are what remains when case, accents and punctuation are taken away, as in datatrove's `simplify_text`,
which needs a slow splitter after it; this one does both at 25 us an abstract. Unlike there, numbers keep
their values: reports of two trials may differ in nothing else, and "0 0 CI 0 0 0 0 and 0 0 CI 0 0 0 0" would
be in thousands of abstracts. In scripts written without spaces (Chinese, Japanese, Thai …) each
character is a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from sys import intern

import numpy as np
import xxhash

from data_prep.documents import Document

# Thai, Lao, Myanmar, Khmer, kana, Han with its extensions and compatibility forms.
_SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_WORD = re.compile(rf"[{_SPACELESS}]|[^\W_{_SPACELESS}]+")
# Accents of Latin, Greek, Cyrillic and kana once they are decomposed; soft hyphen, joiners, byte order mark.
_INVISIBLE = re.compile(
    "[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\u3099\u309a\ufe20-\ufe2f"
    "\u00ad\u200b-\u200d\u2060\ufeff]+"
)
_PIECE = 1 << 20  # characters of a long text that are split into words at once: 10 MB of words
_BATCH = 1 << 18  # characters hashed at once: 40,000 words, whose arrays stay in a core's cache
_REMEMBERED = 1 << 19  # words whose hash is kept: about 100 MB
# An odd 64-bit number without pattern (2**64 over the golden ratio, as in Fibonacci hashing).
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def words(text: str) -> list[str]:
    """The text's words, normalised, in order; equal ones are one object, or a book would take a gigabyte."""
    return [intern(word) for piece in _pieces(text) for word in _words(piece)]


def _words(piece: str) -> list[str]:
    if piece.isascii():
        return _ASCII_WORD.findall(piece.lower())
    # NFKD takes letters from their accents and makes one of a letter's variants (full width, ligatures).
    plain = _INVISIBLE.sub("", unicodedata.normalize("NFKD", piece).lower())
    return _WORD.findall(plain)


def _pieces(text: str) -> Iterator[str]:
    """The text, or a very long one cut at spaces, so that its words are never all in memory as objects."""
    start = 0
    while len(text) - start > _PIECE:
        end = text.rfind(" ", start + 1, start + _PIECE)
        end = end if end > 0 else start + _PIECE
        yield text[start:end]
        start = end
    yield text[start:] if start else text


class _WordHashes(dict[str, int]):
    def __missing__(self, word: str) -> int:
        hashed = self[word] = xxhash.xxh3_64_intdigest(word.encode())
        return hashed


_known = _WordHashes()


def word_hashes(text: str) -> np.ndarray:
    """XXH3 of each of the text's words: uint64, shape (words,)."""
    return np.concatenate([hash_words(_words(piece)) for piece in _pieces(text)])


def hash_words(split: list[str]) -> np.ndarray:
    """XXH3 of each word: uint64, shape (words,)."""
    if len(_known) > _REMEMBERED:
        _known.clear()
    return np.fromiter(map(_known.__getitem__, split), np.uint64, len(split))


def hash_texts(texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Word hashes of n texts one after another, and where each begins: uint64 (words,), int64 (n + 1,)."""
    parts = [word_hashes(text) for text in texts]
    offsets = np.zeros(len(parts) + 1, dtype=np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    return np.concatenate([np.zeros(0, np.uint64), *parts]), offsets


def run_hashes(hashes: np.ndarray, length: int) -> np.ndarray:
    """Hash of each run of `length` words: uint64, shape (max(words - length + 1, 0),).

    A polynomial modulo 2**64 in the words' hashes: of m runs two that differ meet with m**2 / 2**65.
    """
    runs = max(len(hashes) - length + 1, 0)
    total = hashes[:runs].copy()
    for place in range(1, length):
        total *= _MULTIPLIER
        total += hashes[place : place + runs]
    return total


def in_batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """The documents in order, in lists whose texts are worth hashing together."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document["text"])
        if characters >= _BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
