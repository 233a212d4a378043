"""Which full text stands for each article, and which citations it makes superfluous."""

from __future__ import annotations

import numpy as np

from data_prep.curate.articles import UNKNOWN, look_up, same_article, sorted_once
from data_prep.curate.citations import deleted_up_to
from data_prep.curate.filters import PASSES
from data_prep.curate.index import UNKNOWN_YEAR, IndexedDocuments
from data_prep.curate.reasons import DUPLICATE_ID, HAS_FULL_TEXT, KEEP, RETRACTED, SAME_TITLE

NONE = -1
"""In the place of a row number: there is no such row."""

YEARS_APART = 1  # an article is online in one year and in print in the next


def withdrawn(
    pmcid: np.ndarray, version: np.ndarray, file_order: np.ndarray, is_document: np.ndarray
) -> np.ndarray:
    """Mask of the documents whose PMCID a file of their own order or a later one withdraws.

    The arrays are parallel, of shape (n,): documents and withdrawals (not `is_document`); a withdrawal acts
    on its version and older ones. Memory beyond the mask is that of the PMCIDs withdrawn.
    """
    gone = np.zeros(len(pmcid), dtype=bool)
    named = sorted_once(pmcid[~is_document & (pmcid != UNKNOWN)])
    rows = np.flatnonzero(np.isin(pmcid, named)) if len(named) else np.zeros(0, dtype=np.int64)
    if len(rows):
        group = np.searchsorted(named, pmcid[rows])
        rank = np.unique(file_order[rows], return_inverse=True)[1]
        documents = is_document[rows]
        last = deleted_up_to(group, version[rows].astype(np.int64), rank, documents)
        gone[rows] = documents & (version[rows] <= last)
    return gone


def superseded(
    source: np.ndarray, pmcid: np.ndarray, version: np.ndarray, file_order: np.ndarray
) -> np.ndarray:
    """Mask of the documents of whose PMCID their own source has a newer state.

    That is a higher version, or the same one in a later file: what an article was before its licence or a mark
    of retraction changed must not stand in for what it is. Parallel arrays of shape (n,).
    """
    older = np.zeros(len(pmcid), dtype=bool)
    rows = np.flatnonzero(pmcid != UNKNOWN)
    rows = rows[np.lexsort((file_order[rows], version[rows], pmcid[rows], source[rows]))]
    if len(rows):
        changes = (np.diff(pmcid[rows]) != 0) | (np.diff(source[rows]) != 0)
        newest = rows[np.append(np.flatnonzero(changes), len(rows) - 1)]
        newest = np.repeat(newest, np.diff(np.flatnonzero(np.r_[True, changes, True])))
        older[rows] = (version[rows] != version[newest]) | (file_order[rows] != file_order[newest])
    return older


def best_first(
    texts: IndexedDocuments, format_rank: np.ndarray, file_order: np.ndarray
) -> np.ndarray:
    """The rows in the order in which one is preferred to another form of the same article.

    One with a body, then of the lowest `format_rank`, the highest version, the latest file, the first
    by place.
    """
    return np.lexsort((-file_order, -texts.version, format_rank, ~texts.full_text))


def of_articles(
    documents: IndexedDocuments, joined: int, best: np.ndarray, titles: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Reason codes (uint8) and weights (float32) of full texts and of the citations they may replace.

    The rows are full texts, then citations that share an id with one: the first `joined` rows, which
    make articles by their ids. The others are citations that may have the title of one; `titles` says
    whether that counts. `best` has the rows of the full texts, the most preferred first. What the filters
    drop stands for no article and keeps the code KEEP. One mark of retraction drops every row of the article;
    its weight is the lowest of its rows.
    """
    texts = len(best)
    by_id = same_article(documents.keys.take(slice(joined)))
    article = np.concatenate([by_id, np.arange(joined, len(documents))])
    candidates = best[documents.failed[best] == PASSES]
    chosen = chosen_texts(article, candidates)
    codes = np.where(chosen == NONE, np.uint8(KEEP), np.uint8(HAS_FULL_TEXT))
    codes[:texts] = KEEP
    codes[candidates[chosen[candidates] != candidates]] = DUPLICATE_ID

    retracted = np.zeros(len(article), dtype=bool)
    retracted[article[documents.retracted]] = True
    if titles:
        rows, matches = _by_title(documents, texts, article, chosen)
        codes[rows] = SAME_TITLE
        retracted[article[matches[retracted[article[rows]]]]] = True
        retracted[article[rows[retracted[article[matches]]]]] = True
    codes[retracted[article]] = RETRACTED

    lowest = np.ones(len(article), dtype=np.float32)
    np.minimum.at(lowest, article, documents.weight)
    return codes, lowest[article]


def _by_title(
    documents: IndexedDocuments, texts: int, article: np.ndarray, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of citations whose full text is known by its title alone, and that one's rows.

    The first `texts` rows are full texts. One whose citation is known by id has no other.
    """
    stay = np.flatnonzero(documents.full_text[:texts] & (chosen[:texts] == np.arange(texts)))
    cited = texts + np.flatnonzero(chosen[texts:] == NONE)
    matches = same_title(documents, stay, documents.take(cited))
    with_citation = np.zeros(len(article), dtype=bool)
    with_citation[article[texts:]] = True
    found = (matches != NONE) & ~with_citation[article[matches]]
    return cited[found], matches[found]


def chosen_texts(article: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """For each row the row of the text that stands for its article, or NONE.

    `article` gives the article of each row (see articles.same_article), `candidates` the rows that may
    stand for theirs, best first.
    """
    chosen = np.full(len(article), NONE)
    worst_first = candidates[::-1]
    chosen[article[worst_first]] = worst_first  # the last write, the best, stays
    return chosen[article]


def same_title(
    texts: IndexedDocuments, rows: np.ndarray, citations: IndexedDocuments
) -> np.ndarray:
    """For each citation the one row of `rows` of `texts` that has its title, or NONE.

    None where several have the title, where the years are not known or further apart than
    YEARS_APART, or where both have a PMID, PMCID or DOI and it differs.
    """
    rows = rows[texts.title[rows] != 0]
    titles, first, times = np.unique(texts.title[rows], return_index=True, return_counts=True)
    once = times == 1
    titles, rows = titles[once], rows[first[once]]
    if not len(titles):
        return np.full(len(citations), NONE)
    place, found = look_up(titles, citations.title)
    match = rows[place]
    years = texts.year[match], citations.year
    found &= (years[0] != UNKNOWN_YEAR) & (years[1] != UNKNOWN_YEAR)
    found &= np.abs(years[0] - years[1]) <= YEARS_APART
    for theirs, mine in zip(texts.keys.published(), citations.keys.published(), strict=True):
        found &= (theirs[match] == UNKNOWN) | (mine == UNKNOWN) | (theirs[match] == mine)
    return np.where(found, match, NONE)
