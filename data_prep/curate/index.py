"""Reads the index that extraction writes beside a unit's documents, column by column.

`index.parquet` has a row for each document and each deletion of the input file, in its order; its
columns are those of data_prep.extract.index.INDEX_SCHEMA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.curate import articles, filters, quality
from data_prep.curate.articles import ArticleKeys, article_keys, pmcid_numbers
from data_prep.curate.filters import FilterSettings, failed_filters, flags
from data_prep.curate.quality import QualitySettings, weights
from data_prep.errors import DataError

INDEX = "index.parquet"
FIRST_VERSION = 1  # of a record that does not say its own: NLM's default for PMID's Version
UNKNOWN_YEAR = 0
_EVENT = ["kind", "version", "file_year", "file_number"]


@dataclass(frozen=True)
class CitationEvents:
    """The records and deletions of one PubMed file: parallel arrays of shape (n,)."""

    pmid: np.ndarray
    version: np.ndarray
    position: np.ndarray
    is_deletion: np.ndarray
    file: tuple[int, int]
    """(year, number) of the file, which orders it among the others; zeros where its name has none."""
    notices: Notices
    """By the number of the document, deletions not counted."""


@dataclass(frozen=True)
class Notices:
    """Which documents say that an article was retracted, and which: parallel arrays of shape (k,)."""

    document: np.ndarray
    pmid: np.ndarray


@dataclass(frozen=True)
class Withdrawals:
    """The PMCIDs that a file withdraws, in this version and older ones: parallel arrays of shape (k,)."""

    pmcid: np.ndarray
    version: np.ndarray


@dataclass(frozen=True)
class IndexedDocuments:
    """What decides about documents, without their deletions: parallel arrays of shape (n,), 48 bytes a row."""

    keys: ArticleKeys
    version: np.ndarray
    """int32"""
    retracted: np.ndarray
    failed: np.ndarray
    """uint8: the filter that drops it, or filters.PASSES."""
    full_text: np.ndarray
    """Whether it has the article's body."""
    year: np.ndarray
    """int32, UNKNOWN_YEAR where not known."""
    title: np.ndarray
    """int64: hash of the title, 0 where there is none or one that many articles have."""
    weight: np.ndarray
    """float32: see quality.weights; 1 without settings for it."""

    def __len__(self) -> int:
        return len(self.retracted)

    def take(self, rows: np.ndarray | slice) -> IndexedDocuments:
        return IndexedDocuments(
            self.keys.take(rows), *(getattr(self, name)[rows] for name in _ARRAYS)
        )


_ARRAYS = [field.name for field in fields(IndexedDocuments)][1:]
_TYPES = (np.int32, bool, np.uint8, bool, np.int32, np.int64, np.float32)


def concatenate(parts: Sequence[IndexedDocuments]) -> IndexedDocuments:
    """The rows of all parts, in order."""
    return IndexedDocuments(
        articles.concatenate([part.keys for part in parts]),
        *(
            np.concatenate([np.zeros(0, kind), *(getattr(part, name) for part in parts)])
            for name, kind in zip(_ARRAYS, _TYPES, strict=True)
        ),
    )


def read_events(path: Path) -> CitationEvents:
    """The events of a PubMed index. Raises DataError where a record has no PMID."""
    table = pq.read_table(path, columns=[*_EVENT, "pmid", "position", "notice", "retracts"])
    if table["pmid"].null_count:
        raise DataError(f"{path}: a PubMed record without a PMID; extract its file again")
    documents = is_document(table)
    return CitationEvents(
        _integers(table["pmid"], np.int64),
        _versions(table).astype(np.int16),  # four digits, as the reader takes them
        _integers(table["position"], np.int32),
        ~documents,
        _file(table),
        _notices(table.filter(documents)),
    )


def read_notices(path: Path) -> Notices:
    """The notices among an index's documents."""
    table = pq.read_table(path, columns=["kind", "notice", "retracts"])
    return _notices(table.filter(is_document(table)))


def read_withdrawals(path: Path) -> tuple[Withdrawals, tuple[int, int]]:
    """What the deletions of a full-text index withdraw, and the file's place in time (see CitationEvents)."""
    table = pq.read_table(path, columns=[*_EVENT, "pmcid"])
    gone = table.filter(~is_document(table))
    return Withdrawals(pmcid_numbers(gone["pmcid"]), _versions(gone)), _file(table)


def read_indexed_documents(
    path: Path, source: str, rules: FilterSettings, quality_settings: QualitySettings | None
) -> IndexedDocuments:
    """What decides about an index's documents."""
    columns = ["kind", "id", "pmid", "version", "pmcid", "doi", "retracted", "year", "title_hash"]
    columns += filters.COLUMNS
    columns += [name for name in quality.COLUMNS if quality_settings and name not in columns]
    table = pq.read_table(path, columns=columns)
    table = table.filter(is_document(table))
    return IndexedDocuments(
        article_keys(table, source),
        _versions(table),
        flags(table["retracted"]),
        failed_filters(table, rules),
        pc.fill_null(pc.equal(table["record"].cast(pa.string()), "full_text"), False).to_numpy(),
        _integers(table["year"], np.int32, unknown=UNKNOWN_YEAR),
        _integers(table["title_hash"], np.int64),
        weights(table, quality_settings)
        if quality_settings
        else np.ones(len(table), dtype=np.float32),
    )


def _notices(documents: pa.Table) -> Notices:
    """Only a notice's link counts: other articles may discuss or republish what was retracted."""
    rows = np.flatnonzero(flags(documents["notice"]))
    links = documents["retracts"].combine_chunks().take(pa.array(rows))
    parents = pc.list_parent_indices(links).to_numpy()
    return Notices(rows[parents], pc.list_flatten(links).to_numpy())


def is_document(table: pa.Table) -> np.ndarray:
    """Mask of an index's rows that are documents, and not deletions; reads the column kind."""
    return pc.equal(table["kind"].cast(pa.string()), "document").to_numpy()


def _file(table: pa.Table) -> tuple[int, int]:
    return _first(table["file_year"]), _first(table["file_number"])


def _versions(table: pa.Table) -> np.ndarray:
    return _integers(table["version"], np.int32, unknown=FIRST_VERSION)


def _integers(column: pa.ChunkedArray, dtype: type, unknown: int = 0) -> np.ndarray:
    return pc.fill_null(column, unknown).to_numpy().astype(dtype)


def _first(column: pa.ChunkedArray) -> int:
    return (column[0].as_py() or 0) if len(column) else 0
