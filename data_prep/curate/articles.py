"""Which rows of several sources are one article: equal PMID, PMCID or DOI, however these are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.extract.index import content_hashes
from data_prep.sources.identifiers import DOI

UNKNOWN = 0
"""Key of a row whose PMID, PMCID or DOI is not known: it equals no other."""

# Anything else ("n/a", a journal's bare prefix) would make strangers one article.
_DOI = f"^{DOI}$"
_DOI_PREFIX = r"^(https?://(dx\.)?doi\.org/|doi:\s*)"
_PMCID = r"^(?i:pmc)?\s*(?P<number>\d{1,18})(?:\.\d+)?$"


@dataclass(frozen=True)
class ArticleKeys:
    """PMID, PMCID number and DOI hash of n rows: int64 arrays of shape (n,), UNKNOWN where not known.

    Rows that have none of the three have the hash of their id in the DOI's place; such hashes are odd,
    those of DOIs even.
    """

    pmid: np.ndarray
    pmcid: np.ndarray
    doi: np.ndarray

    def all(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.pmid, self.pmcid, self.doi

    def published(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Like `all`, with UNKNOWN in the place of hashes of ids."""
        return self.pmid, self.pmcid, np.where(self.doi & 1, UNKNOWN, self.doi)

    def __len__(self) -> int:
        return len(self.pmid)

    def take(self, rows: np.ndarray | slice) -> ArticleKeys:
        return ArticleKeys(*(key[rows] for key in self.all()))


def article_keys(table: pa.Table, source: str) -> ArticleKeys:
    """Keys of a table's columns pmid (integer), pmcid, doi and id (text).

    An id that is made of a file's name is one only within its source.
    """
    pmid = pc.fill_null(table["pmid"].cast(pa.int64()), UNKNOWN).to_numpy()
    pmcid, doi = pmcid_numbers(table["pmcid"]), doi_hashes(table["doi"])
    nameless = (pmid == UNKNOWN) & (pmcid == UNKNOWN) & (doi == UNKNOWN)
    ids = table["id"].filter(pa.array(nameless)).to_pylist()
    doi[nameless] = content_hashes([f"{source} {name}" for name in ids]) | 1
    return ArticleKeys(pmid, pmcid, doi)


def concatenate(parts: Sequence[ArticleKeys]) -> ArticleKeys:
    """The rows of all parts, in order."""
    columns = zip(*(part.all() for part in parts), strict=True)
    joined = [np.concatenate(column) for column in columns]
    return ArticleKeys(*joined) if joined else ArticleKeys(*[np.zeros(0, dtype=np.int64)] * 3)


def pmcid_numbers(pmcids: pa.ChunkedArray) -> np.ndarray:
    """123 for "PMC123", "pmc 123", "PMC123.1" and "123"; UNKNOWN for anything else."""
    text = pc.utf8_trim_whitespace(pmcids.cast(pa.string()))
    number = pc.struct_field(pc.extract_regex(text, _PMCID), "number")
    return pc.fill_null(number.cast(pa.int64()), UNKNOWN).to_numpy()


def doi_hashes(dois: pa.ChunkedArray) -> np.ndarray:
    """63-bit hashes of the DOIs without resolver, in lower case; UNKNOWN for what is no DOI.

    Among 40 million citations and 8 million full texts two different DOIs meet with a probability of
    4e7 * 8e6 / 2**63 = 4e-5.
    """
    text = pc.utf8_lower(pc.utf8_trim_whitespace(dois.cast(pa.string())))
    text = pc.replace_substring_regex(text, _DOI_PREFIX, "")
    valid = pc.fill_null(pc.match_substring_regex(text, _DOI), False).to_numpy()
    hashes = np.full(len(text), UNKNOWN, dtype=np.int64)
    even = content_hashes(text.filter(pa.array(valid)).to_pylist()) & ~np.int64(1)
    hashes[valid] = np.where(even == UNKNOWN, 2, even)
    return hashes


def shares_a_key(keys: ArticleKeys, known: ArticleKeys) -> np.ndarray:
    """Mask of the rows of `keys` with a PMID, PMCID or DOI that some row of `known` has.

    The columns of `known` are sorted, as `unique_keys` gives them.
    """
    found = np.zeros(len(keys), dtype=bool)
    for mine, theirs in zip(keys.all(), known.all(), strict=True):
        found |= look_up(theirs, mine)[1] & (mine != UNKNOWN)
    return found


def look_up(known: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of `asked` its place in `known` (sorted), and whether it is there."""
    if not len(known):
        return np.zeros(len(asked), dtype=np.int64), np.zeros(len(asked), dtype=bool)
    place = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    return place, known[place] == asked


def unique_keys(keys: ArticleKeys) -> ArticleKeys:
    """Each column sorted, once each; the columns are no longer parallel."""
    return ArticleKeys(*map(sorted_once, keys.all()))


def sorted_once(values: np.ndarray) -> np.ndarray:
    """The values sorted, once each. np.unique gives the same through a hash table, at several times the cost."""
    values = np.sort(values)
    return values[np.append(True, values[1:] != values[:-1])[: len(values)]]


def same_article(keys: ArticleKeys) -> np.ndarray:
    """For each row the first row of its article: shape (n,), int64.

    Rows are one article when a chain of equal keys connects them. The smallest row number spreads
    within the rows of each key until nothing changes: a pass a link of the longest chain, in practice
    three. Peak memory is 60 bytes a row.
    """
    first = np.arange(len(keys), dtype=np.int64)
    shared = [_rows_by_key(key) for key in keys.all()]
    changed = True
    while changed:
        before = first.copy()
        for rows, starts in shared:
            if len(rows):
                smallest = np.minimum.reduceat(first[rows], starts)
                first[rows] = np.repeat(smallest, np.diff(np.append(starts, len(rows))))
        changed = not np.array_equal(before, first)
    return first


def _rows_by_key(key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows that share a known key with another, grouped by it, and where each group starts."""
    rows = np.flatnonzero(key != UNKNOWN)
    rows = rows[np.argsort(key[rows], kind="stable")]
    same_as_next = key[rows][1:] == key[rows][:-1]
    shared = np.append(same_as_next, False) | np.insert(same_as_next, 0, False)
    rows = rows[shared[: len(rows)]]
    values = key[rows]
    return rows, np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(rows)])
