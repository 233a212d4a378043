"""Reads the index that extraction writes beside a unit's documents, column by column.

`index.parquet` has a row for each document and each deletion of the input file, in its order:
position (a document's place in the unit), kind ("document" or "deletion"), pmid, version, pmcid, doi,
id, retracted, file_year, file_number, language, licence, characters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.curate.articles import ArticleKeys, article_keys
from data_prep.curate.filters import FilterSettings, accepts_language, accepts_licence
from data_prep.errors import DataError

INDEX = "index.parquet"
FIRST_VERSION = 1  # of a record that does not say its own: NLM's default for PMID's Version


@dataclass(frozen=True)
class CitationEvents:
    """The records and deletions of one PubMed file: parallel arrays of shape (n,)."""

    pmid: np.ndarray
    version: np.ndarray
    position: np.ndarray
    is_deletion: np.ndarray
    file: tuple[int, int]
    """(year, number) of the file, which orders it among the others; zeros where its name has none."""


@dataclass(frozen=True)
class IndexedDocuments:
    """What is known of the documents of one file, without its deletions."""

    keys: ArticleKeys
    retracted: np.ndarray
    passes: np.ndarray
    """Whether the filters of full texts keep it."""
    version: np.ndarray

    def __len__(self) -> int:
        return len(self.retracted)


def read_events(path: Path) -> CitationEvents:
    """The events of a PubMed index. Raises DataError where a record has no PMID."""
    table = pq.read_table(
        path, columns=["kind", "pmid", "version", "position", "file_year", "file_number"]
    )
    if table["pmid"].null_count:
        raise DataError(f"{path}: a PubMed record without a PMID; extract its file again")
    return CitationEvents(
        _integers(table["pmid"], np.int64),
        _integers(table["version"], np.int16, unknown=FIRST_VERSION),
        _integers(table["position"], np.int64),
        ~_is_document(table),
        (_first(table["file_year"]), _first(table["file_number"])),
    )


def read_indexed_documents(path: Path, source: str, filters: FilterSettings) -> IndexedDocuments:
    """Keys, retraction marks, versions and the filters' answers for an index's documents."""
    columns = ["kind", "id", "pmid", "version", "pmcid", "doi", "retracted"]
    table = pq.read_table(path, columns=[*columns, "language", "licence", "characters"])
    table = table.filter(_is_document(table))
    return IndexedDocuments(
        article_keys(table, source),
        pc.fill_null(table["retracted"], False).to_numpy(),
        _accepted(table["language"], lambda code: accepts_language(code, filters))
        & _accepted(table["licence"], lambda code: accepts_licence(code, filters))
        & (_integers(table["characters"], np.int64) >= filters["min_characters"]),
        _integers(table["version"], np.int16, unknown=FIRST_VERSION),
    )


def read_positions(path: Path) -> pa.ChunkedArray:
    """Positions (int64) of an index's documents, in order."""
    table = pq.read_table(path, columns=["kind", "position"])
    return table.filter(_is_document(table))["position"].cast(pa.int64())


def _is_document(table: pa.Table) -> np.ndarray:
    return pc.equal(table["kind"].cast(pa.string()), "document").to_numpy()


def _accepted(column: pa.ChunkedArray, accepts: Callable[[str | None], bool]) -> np.ndarray:
    values = [value for value in column.unique().to_pylist() if accepts(value)]
    return pc.is_in(column, pa.array(values, column.type)).to_numpy()


def _integers(column: pa.ChunkedArray, dtype: type, unknown: int = 0) -> np.ndarray:
    return pc.fill_null(column, unknown).to_numpy().astype(dtype)


def _first(column: pa.ChunkedArray) -> int:
    return (column[0].as_py() or 0) if len(column) else 0
