"""What the rows and the document list of a set hold: checked a stretch at a time, in any process.

A stretch is a row group of documents.parquet or some row groups of the shards. What stretches found is added
up: the sums of document_sums.py are zero where list and rows hold the same documents.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import DataError
from data_prep.shards.checks import document_sums
from data_prep.shards.checks.documents import Held, Listed, Piece, list_problem
from data_prep.shards.checks.files import REPORT
from data_prep.shards.checks.rows import (
    RowPieces,
    content_of,
    document_ids,
    has_texts,
    row_problems,
    shape_problem,
    window_problems,
)
from data_prep.shards.counts import ShardCounts
from data_prep.shards.manifest import DOCUMENTS_FILE, Manifest
from data_prep.shards.reader import ShardSet

BATCH = 1 << 16  # documents at once, about 10 MB


@dataclass
class Found:
    """Problems, counts as in the manifest, and document_sums of the rows less those of the list.

    ids: by stretch of the list, its first and its last.
    """

    problems: list[str] = field(default_factory=list)
    counts: ShardCounts = field(default_factory=ShardCounts)
    sums: np.ndarray = field(default_factory=document_sums.empty_sums)
    ids: dict[int, tuple[str, str]] = field(default_factory=dict)

    def add(self, other: "Found") -> None:
        self.problems += other.problems
        self.counts.add(other.counts)
        self.sums += other.sums
        self.ids |= other.ids


@lru_cache(maxsize=1)
def open_set(folder: Path) -> ShardSet:
    return ShardSet(folder)


def check_list(folder: Path, stretch: int) -> Found:
    """A row group of documents.parquet."""
    shards, path = open_set(folder), folder / DOCUMENTS_FILE
    group_ends = np.cumsum(shards.row_groups)
    found = Found()
    with pq.ParquetFile(path) as file:
        first = last = None
        for batch in file.iter_batches(
            BATCH, [stretch], columns=["id", "bytes", "tokens", "rows"], use_threads=False
        ):
            listed = Listed.of(batch)
            problem = list_problem(listed, last, shards.manifest, group_ends)
            if problem:
                found.problems.append(f"{path}: {problem}; {REPORT}")
                break
            first, last = first or listed.ids[0], listed.ids[-1]
            _subtract(found.sums, listed, shards.manifest)
            found.counts.add_documents(pa.Table.from_batches([batch]), shards.manifest)
        if first is not None and last is not None:
            found.ids[stretch] = first, last
    return found


def _subtract(sums: np.ndarray, listed: Listed, manifest: Manifest) -> None:
    hashed, taken = document_sums.hash_ids(listed.ids), document_sums.empty_sums()
    document_sums.add_rows(taken, hashed[listed.document()], listed.rows)
    if manifest.policy != "per_document":
        document_sums.add_pieces(taken, hashed, np.zeros(len(hashed), np.int64), listed.tokens)
        if has_texts(manifest):
            document_sums.add_end_tokens(taken, hashed, listed.tokens)
    sums -= taken


def check_rows(folder: Path, groups: range, lengths: Path | None) -> Found:
    """Some row groups; `lengths` is what write_lengths wrote, for the policy per_document."""
    shards, found = open_set(folder), Found()
    manifest = shards.manifest
    for group, first_row, pieces, ids in _row_groups(shards, groups, found):
        if lengths is not None:
            rows = int(shards.row_groups[group])
            expected = np.fromfile(lengths, np.int64, rows, offset=8 * first_row)
            found.problems += [
                _in_group(shards, group, problem)
                for problem in window_problems(pieces, manifest, expected)
            ]
        hashed = document_sums.hash_ids(ids)
        document_sums.add_rows(found.sums, hashed, pieces.row + first_row)
        if manifest.policy != "per_document":
            document_sums.add_pieces(found.sums, hashed, pieces.offset, pieces.end)
            if has_texts(manifest):
                ended = pieces.last == manifest.end_id
                document_sums.add_end_tokens(found.sums, hashed[ended], pieces.end[ended])
    return found


def _row_groups(
    shards: ShardSet, groups: range, found: Found
) -> Iterator[tuple[int, int, RowPieces, list[str]]]:
    """(group, the set's number of its first row, its pieces, their ids) of those that can be looked at."""
    manifest = shards.manifest
    first_row = int(shards.row_groups[: groups[0]].sum())
    for group in groups:
        rows = int(shards.row_groups[group])
        try:
            table = shards.table(group, manifest.arrow_schema().names)
            problem = shape_problem(table, rows, manifest)
            problem = problem and _in_group(shards, group, problem)
        except DataError as error:
            problem = str(error)
        if problem:
            found.problems.append(problem)
        else:
            content = content_of(table, manifest)
            pieces = RowPieces.of(content)
            found.problems += [
                _in_group(shards, group, problem)
                for problem in row_problems(content, pieces, manifest)
            ]
            found.counts.add_rows(table, manifest)
            yield group, first_row, pieces, document_ids(table)
        first_row += rows


def _in_group(shards: ShardSet, group: int, problem: str) -> str:
    path, number = shards.place(group)
    return f"{path}: row group {number}: {problem}; {REPORT}"


def write_lengths(folder: Path, path: Path) -> None:
    """The tokens of the document that is listed for each row of the set, int64, 0 for none."""
    rows = int(open_set(folder).row_groups.sum())
    lengths = np.memmap(path, np.int64, "w+", shape=rows)
    with pq.ParquetFile(folder / DOCUMENTS_FILE) as file:
        for batch in file.iter_batches(BATCH, columns=["id", "tokens", "rows"], use_threads=False):
            listed = Listed.of(batch)
            inside = (listed.rows >= 0) & (listed.rows < len(lengths))
            lengths[listed.rows[inside]] = listed.tokens[listed.document()[inside]]
    lengths.flush()


def documents_in(folder: Path, buckets: np.ndarray) -> dict[str, Held]:
    """The listed documents of these buckets of document_sums."""
    documents = {}
    with pq.ParquetFile(folder / DOCUMENTS_FILE) as file:
        for batch in file.iter_batches(BATCH, columns=["id", "tokens", "rows"], use_threads=False):
            listed = Listed.of(batch)
            for place in _places_in(document_sums.hash_ids(listed.ids), buckets):
                begin, end = listed.starts[place : place + 2]
                documents[listed.ids[place]] = Held(
                    int(listed.tokens[place]), listed.rows[begin:end].tolist()
                )
    return documents


def pieces_in(folder: Path, groups: range, buckets: np.ndarray) -> list[tuple[str, Piece]]:
    """The pieces in these row groups of the documents of these buckets, each with its document's id."""
    shards, pieces = open_set(folder), []
    for _, first_row, found, ids in _row_groups(shards, groups, Found()):
        for place in _places_in(document_sums.hash_ids(ids), buckets):
            piece = Piece(
                int(found.offset[place]),
                int(found.end[place]),
                int(found.row[place]) + first_row,
                bool(found.last[place] == shards.manifest.end_id),
            )
            pieces.append((ids[place], piece))
    return pieces


def _places_in(hashed: np.ndarray, buckets: np.ndarray) -> list[int]:
    return np.flatnonzero(np.isin(document_sums.bucket_of(hashed), buckets)).tolist()
