"""Decides on every document of a corpus by the indexes of its units: the rules of the stage identify."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data_prep.curate import citations
from data_prep.curate.articles import UNKNOWN, look_up, shares_a_key, sorted_once, unique_keys
from data_prep.curate.filters import PASSES, FilterSettings
from data_prep.curate.full_texts import best_first, of_articles, superseded, withdrawn
from data_prep.curate.index import (
    IndexedDocuments,
    Withdrawals,
    concatenate,
    read_events,
    read_indexed_documents,
    read_notices,
    read_withdrawals,
)
from data_prep.curate.quality import QualitySettings, histogram, is_drawn
from data_prep.curate.reasons import (
    DELETED,
    FIRST_FILTER,
    KEEP,
    QUALITY,
    RETRACTED,
    SUPERSEDED,
)
from data_prep.units import source_of

# PMC's XML is what publishers sent; S2ORC's text was read off a PDF by a machine.
_PREFERENCE = {"jats": 0, "pmc": 0, "s2orc": 1}
_OTHER = 2
_NUMBERS = 32  # bits of a file's number, below its year

Reasons = dict[str, np.ndarray]
"""By unit name the reason code (uint8) of each of its documents."""


@dataclass(frozen=True)
class Rules:
    """What the config says about which documents stay."""

    formats: dict[str, str]
    """By source."""
    filters: FilterSettings
    drop_retracted: bool
    same_title: bool
    quality: QualitySettings | None


@dataclass(frozen=True)
class _FullTexts:
    """The documents of all units that are not PubMed's, in their order, without those that are gone."""

    documents: IndexedDocuments
    best: np.ndarray
    """Their rows, the most preferred first."""
    gone: Reasons
    """By unit why its documents are not here: DELETED, SUPERSEDED, or KEEP where they are."""
    retracts: np.ndarray
    """PMIDs that notices among the documents retract."""


class _Involved:
    """The citations that full texts decide about, unit by unit: which they are, and what decides."""

    def __init__(self) -> None:
        self.rows: dict[str, np.ndarray] = {}
        self.parts: list[IndexedDocuments] = []

    def add(self, unit: str, documents: IndexedDocuments, mask: np.ndarray) -> None:
        self.rows[unit] = np.flatnonzero(mask).astype(np.int32)
        self.parts.append(documents.take(self.rows[unit]))


def decide(paths: dict[str, Path], rules: Rules) -> tuple[Reasons, Counter[str]]:
    """Decide on the documents of all indexes, by unit name; and count those that were weighed, by weight.

    Memory, measured: 50 bytes a PubMed record, thereafter 240 a full text with the citations it meets; 2.3 GB
    for 38 million and 7 million.
    """
    cited = {n: p for n, p in paths.items() if rules.formats[source_of(n)] == "pubmed"}
    weighed: Counter[str] = Counter()
    decisions, retracts = newest_citations(cited)
    texts = _read_full_texts({n: p for n, p in paths.items() if n not in cited}, rules)
    retracted_pmids = sorted_once(np.concatenate([retracts, texts.retracts]))

    # A citation that meets no full text decides about itself alone; only the others have to be in
    # memory together.
    ids = unique_keys(texts.documents.keys)
    titles = sorted_once(texts.documents.title[texts.documents.full_text])
    by_id, by_title = _Involved(), _Involved()
    for name, path in cited.items():
        documents = read_indexed_documents(path, source_of(name), rules.filters, rules.quality)
        documents = _marked(documents, retracted_pmids, rules)
        stands = decisions[name] == KEEP
        has_id = stands & shares_a_key(documents.keys, ids)
        has_title = stands & ~has_id & (documents.title != 0) & look_up(titles, documents.title)[1]
        by_id.add(name, documents, has_id)
        by_title.add(name, documents, has_title)
        alone = np.flatnonzero(stands & ~has_id & ~has_title)
        decisions[name][alone] = of_themselves(documents.take(alone), rules, weighed)
    del ids, titles

    codes = iter(_of_full_texts(texts, by_id, by_title, retracted_pmids, rules, weighed))
    for name, gone in texts.gone.items():
        decisions[name] = gone
        decisions[name][gone == KEEP] = next(codes)
    for involved in (by_id, by_title):
        for name, rows in involved.rows.items():
            decisions[name][rows] = next(codes)
    return decisions, weighed


def _of_full_texts(
    texts: _FullTexts,
    by_id: _Involved,
    by_title: _Involved,
    retracted_pmids: np.ndarray,
    rules: Rules,
    weighed: Counter[str],
) -> list[np.ndarray]:
    """The reason codes of each unit's full texts, then of the citations they decide about."""
    sizes = [int((gone == KEEP).sum()) for gone in texts.gone.values()]
    sizes += [len(part) for part in (*by_id.parts, *by_title.parts)]
    joined = len(texts.documents) + sum(map(len, by_id.parts))
    documents = concatenate(
        [_marked(texts.documents, retracted_pmids, rules), *by_id.parts, *by_title.parts]
    )
    by_id.parts.clear()
    by_title.parts.clear()
    codes, weight = of_articles(documents, joined, texts.best, rules.same_title)
    left = np.flatnonzero(codes == KEEP)
    weighted = replace(documents.take(left), weight=weight[left])
    codes[left] = of_themselves(weighted, rules, weighed)
    return np.split(codes, np.cumsum(sizes)[:-1]) if sizes else []


def of_themselves(documents: IndexedDocuments, rules: Rules, weighed: Counter[str]) -> np.ndarray:
    """Reason codes (uint8, shape (n,)) of documents that no other document decides about."""
    filtered = documents.failed + np.uint8(FIRST_FILTER - PASSES - 1)
    codes = np.where(documents.failed == PASSES, np.uint8(KEEP), filtered)
    codes[documents.retracted] = RETRACTED
    if rules.quality:
        weighed.update(histogram(documents.weight[codes == KEEP]))
        codes[(codes == KEEP) & ~is_drawn(documents.keys, documents.weight)] = QUALITY
    return codes


def newest_citations(paths: dict[str, Path]) -> tuple[Reasons, np.ndarray]:
    """KEEP, SUPERSEDED or DELETED for the documents of each PubMed index, and the PMIDs that notices retract.

    Files are ordered by the year and number in their names, those without by unit name before them.
    Only a notice that stands retracts.
    """
    files = {name: read_events(path) for name, path in paths.items()}
    if not files:
        return {}, np.zeros(0, dtype=np.int64)
    by_age = sorted(files, key=lambda name: (files[name].file, name))
    rank = {name: number for number, name in enumerate(by_age)}
    sizes = [len(events.pmid) for events in files.values()]
    _, code = citations.winners(
        np.concatenate([events.pmid for events in files.values()]),
        np.concatenate([events.version for events in files.values()]),
        np.repeat([rank[name] for name in files], sizes).astype(np.int32),
        np.concatenate([events.position for events in files.values()]),
        np.concatenate([events.is_deletion for events in files.values()]),
    )
    decisions: Reasons = {}
    retracts = []
    for (name, events), part in zip(
        files.items(), np.split(code, np.cumsum(sizes)[:-1]), strict=True
    ):
        decisions[name] = part[~events.is_deletion]
        stands = decisions[name][events.notices.document] == KEEP
        retracts.append(events.notices.pmid[stands])
    return decisions, np.concatenate(retracts)


def _read_full_texts(paths: dict[str, Path], rules: Rules) -> _FullTexts:
    parts: list[IndexedDocuments] = []
    ranks, orders, withdrawn_by = [np.zeros(0, np.int8)], [np.zeros(0, np.int64)], []
    sources = [np.zeros(0, np.int16)]
    numbers = {name: number for number, name in enumerate(rules.formats)}
    for name, path in paths.items():
        source = source_of(name)
        parts.append(read_indexed_documents(path, source, rules.filters, rules.quality))
        rank = _PREFERENCE.get(rules.formats[source], _OTHER)
        withdrawals, (year, number) = read_withdrawals(path)
        order = (year << _NUMBERS) + number
        ranks.append(np.full(len(parts[-1]), rank, np.int8))
        orders.append(np.full(len(parts[-1]), order))
        sources.append(np.full(len(parts[-1]), numbers[source], np.int16))
        withdrawn_by.append((withdrawals, order))
    sizes = np.array([len(part) for part in parts], dtype=np.int64)
    documents, file_order = concatenate(parts), np.concatenate(orders)
    parts.clear()
    gone = np.where(_deleted(documents, file_order, withdrawn_by), DELETED, KEEP).astype(np.uint8)
    here = np.flatnonzero(gone == KEEP)
    older = superseded(
        np.concatenate(sources)[here],
        documents.keys.pmcid[here],
        documents.version[here],
        file_order[here],
    )
    gone[here[older]] = SUPERSEDED
    here = here[~older]
    if len(here) < len(documents):
        documents = documents.take(here)
    by_unit = dict(zip(paths, np.split(gone, np.cumsum(sizes)[:-1]), strict=True)) if paths else {}
    retracts = [np.zeros(0, np.int64)]
    for name, path in paths.items():
        notices = read_notices(path)
        retracts.append(notices.pmid[by_unit[name][notices.document] == KEEP])
    best = best_first(documents, np.concatenate(ranks)[here], file_order[here])
    return _FullTexts(documents, best, by_unit, np.concatenate(retracts))


def _deleted(
    documents: IndexedDocuments, file_order: np.ndarray, gone: Sequence[tuple[Withdrawals, int]]
) -> np.ndarray:
    withdrawals = [(w.pmcid, w.version, np.full(len(w.pmcid), order)) for w, order in gone]
    pmcid, version, order = (
        np.concatenate([own, *theirs])
        for own, theirs in zip(
            (documents.keys.pmcid, documents.version, file_order),
            zip(*withdrawals, strict=True) if withdrawals else ((), (), ()),
            strict=True,
        )
    )
    return withdrawn(pmcid, version, order, np.arange(len(pmcid)) < len(documents))[
        : len(documents)
    ]


def _marked(
    documents: IndexedDocuments, retracted_pmids: np.ndarray, rules: Rules
) -> IndexedDocuments:
    """The documents with the marks of notices; without any mark where retractions are kept."""
    pmid = documents.keys.pmid
    marked = documents.retracted | (look_up(retracted_pmids, pmid)[1] & (pmid != UNKNOWN))
    return replace(documents, retracted=marked & rules.drop_retracted)
