"""Whether the pieces in a set's rows make up the documents of its list, in constant memory.

Let h be a hash of a document's id and a number. A piece [offset, end) adds h(id, end) - h(id, offset), a
listed document takes away h(id, tokens) - h(id, 0), all modulo 2^64. Where the sum over everything is
zero, as many pieces of a document end as begin at every place but its first and its last token: edges
that all lead forward, hence one unbroken path from 0 to `tokens`, each token once. (That another set of
numbers gives zero as well has a chance of 2^-64.) Other hashes do the same for the rows in which a document is,
and for the pieces that end with the end token. The order of pieces does not matter, so that any number of
processes can add up; sums are kept for BUCKETS ranges of hashed ids, so that what is wrong can be looked
up afterwards without holding all documents.
"""

from collections.abc import Iterable

import numpy as np
import xxhash

BUCKETS = 1 << 14  # 128 KiB of sums; of 10^9 documents one holds 61,000
_PLACE, _ROW, _END = (np.uint64(number) for number in (1 << 61, 2 << 61, 3 << 61))


def hash_ids(ids: Iterable[str]) -> np.ndarray:
    """uint64, one for each id."""
    return np.array([xxhash.xxh3_64_intdigest(name.encode()) for name in ids], np.uint64)


def bucket_of(hashed: np.ndarray) -> np.ndarray:
    """int64: the bucket of each hashed id."""
    return (hashed >> np.uint64(64 - (BUCKETS - 1).bit_length())).astype(np.int64)


def empty_sums() -> np.ndarray:
    return np.zeros(BUCKETS, np.uint64)


def add_rows(sums: np.ndarray, hashed: np.ndarray, rows: np.ndarray) -> None:
    """Add that the documents are in these rows of the set, both shape (n,)."""
    _add(sums, hashed, _hash(hashed, rows, _ROW))


def add_pieces(sums: np.ndarray, hashed: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> None:
    """Add pieces of documents, tokens [begins, ends) of them, all shape (n,)."""
    _add(sums, hashed, _hash(hashed, ends, _PLACE) - _hash(hashed, begins, _PLACE))


def add_end_tokens(sums: np.ndarray, hashed: np.ndarray, places: np.ndarray) -> None:
    """Add that the document has an end token before that place, both shape (n,)."""
    _add(sums, hashed, _hash(hashed, places, _END))


def _add(sums: np.ndarray, hashed: np.ndarray, values: np.ndarray) -> None:
    np.add.at(sums, bucket_of(hashed), values)


def _hash(hashed: np.ndarray, numbers: np.ndarray, kind: np.uint64) -> np.ndarray:
    return _mix(hashed ^ _mix(numbers.astype(np.uint64) ^ kind))


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), which spreads every bit over all."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
