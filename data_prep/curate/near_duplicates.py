"""The stage that keeps one of each set of near-duplicates, over all sources at once.

It comes after identify and signatures, and before decontaminate. Two documents are near-duplicates where
a bucket of their signatures is equal (minhash.py says how likely that is); a chain of such pairs is one
set. The longest text of a set stays, of equally long ones the one whose id is lowest as text, so
that neither the number of workers nor the order of units matters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.config import CorpusConfig, NearDuplicates
from data_prep.curate.clusters import NO_KEY, Clusters, pairs_of_equals
from data_prep.curate.decisions import KEEP, read_decisions, write_decisions
from data_prep.curate.index import INDEX, is_document
from data_prep.curate.signatures import DIRECTORY as SIGNATURES_DIRECTORY
from data_prep.curate.signatures import SIGNATURES, read_keys
from data_prep.curate.steps import Reduces, decisions_name
from data_prep.documents import DOCUMENTS
from data_prep.errors import DataError
from data_prep.files import digest, sha256_file
from data_prep.units import Stage, Unit, UnitResult, finished, source_of

UNIT = "all"
CLUSTERS = "clusters.parquet"
NEAR_DUPLICATE = "near_duplicate"
REASONS = (KEEP, NEAR_DUPLICATE)
_DROPPED = 1


class NearDuplicatesStage(Stage):
    """Writes `decisions/<unit>.parquet` for each extracted unit, and clusters.parquet.

    clusters.parquet has a row for each dropped document, sorted: `survivor` and `dropped`, both ids. The
    documents of a unit whose signatures failed are compared with none, and counted. Memory: 25 bytes
    a document that identify keeps (0.95 GB for 38 million), 200 more for each in a set, 1 for each dropped.
    """

    name = "near_duplicates"
    version = 1

    def __init__(self, config: CorpusConfig):
        about = config.curate.near_duplicates or NearDuplicates()
        self.directory = config.output / "near_duplicates"
        self.extracted = config.extracted
        self.identified = config.output / "identify"
        self.signed = config.output / SIGNATURES_DIRECTORY
        self.sources = frozenset(config.sources)
        self.settings = about.model_dump()

    def units(self) -> list[Unit]:
        results = [
            unit for unit in finished(self.extracted) if source_of(unit.name) in self.sources
        ]
        if not results:
            return []
        identified = Reduces([self.identified])
        signed = {unit.name: unit for unit in finished(self.signed)}
        payloads, inputs, size = {}, {}, 0
        for result in results:
            (decisions,) = identified.decisions(result.name)
            signatures = _signatures(signed.get(result.name), result)
            payloads[result.name] = {
                "index": str(result.folder / INDEX),
                "decisions": str(decisions.path),
                "signatures": signatures,
            }
            hashes = [result.files[INDEX]["sha256"], decisions.sha256]
            inputs[result.name] = digest([*hashes, signatures and signatures["sha256"]])
            size += signatures["bytes"] if signatures else 0
        return [Unit(UNIT, inputs=inputs, bytes=size, payload={"units": payloads})]

    def run_unit(self, unit: Unit, folder: Path) -> dict[str, Any]:
        parts = [_part(name, about) for name, about in sorted(unit.payload["units"].items())]
        members = rank_members(parts, find_clusters(parts, self.settings["buckets"]))
        stays = _first_of_each(members["cluster"].to_numpy())
        dropped = np.sort(members["row"].to_numpy()[~stays])
        by_source: Counter[str] = Counter()
        for part, rows in zip(parts, _split(dropped, parts), strict=True):
            codes = np.zeros(len(part.stays), dtype=np.uint8)
            codes[np.flatnonzero(part.stays)[rows]] = _DROPPED
            write_decisions(folder / decisions_name(part.name), codes, REASONS)
            by_source[source_of(part.name)] += len(rows)
        _write_clusters(folder / CLUSTERS, members["id"], stays)
        sizes = np.diff(np.append(np.flatnonzero(stays), len(stays)))
        return {
            "compared": sum(part.rows for part in parts if part.signatures),
            "without_signature": sum(part.rows for part in parts if not part.signatures),
            "near_duplicates": len(dropped),
            "near_duplicates_by_source": dict(sorted(by_source.items())),
            "clusters": len(sizes),
            "largest_cluster": int(sizes.max(initial=0)),
        }


@dataclass(frozen=True)
class Part:
    """An extracted unit: `stays` (bool, a row for each document) marks what the steps before keep."""

    name: str
    index: Path
    stays: np.ndarray
    signatures: Path | None

    @property
    def rows(self) -> int:
        """Documents that stay; those of all parts, in order, are the rows of the reduce."""
        return int(self.stays.sum())


def find_clusters(parts: Sequence[Part], buckets: int) -> np.ndarray:
    """For each row the smallest row of its set: int64, shape (rows,)."""
    rows = sum(part.rows for part in parts)
    clusters = Clusters(rows)
    keys = np.empty(rows, dtype=np.uint64)
    for bucket in range(buckets):
        place = 0
        for part in parts:
            keys[place : place + part.rows] = _keys(part, bucket)
            place += part.rows
        for left, right in pairs_of_equals(keys):
            clusters.join(left, right)
    return clusters.smallest_rows()


def rank_members(parts: Sequence[Part], first: np.ndarray) -> pa.Table:
    """The rows of sets with two or more: cluster, row, characters, id; who stays first in each cluster.

    `first` is for each row the smallest row of its set.
    """
    shared = first != np.arange(len(first))
    shared[first[shared]] = True
    rows = np.flatnonzero(shared)
    tables = []
    for part, mine in zip(parts, _split(rows, parts), strict=True):
        table = pq.read_table(part.index, columns=["kind", "characters", "id"])
        table = table.filter(is_document(table)).drop_columns(["kind"])
        tables.append(table.take(np.flatnonzero(part.stays)[mine]))
    table = pa.concat_tables(tables).append_column("row", pa.array(rows))
    table = table.append_column("cluster", pa.array(first[rows]))
    # The row decides between equal ids only: two records of one article.
    order = [("cluster", "ascending"), ("characters", "descending"), ("id", "ascending")]
    return table.sort_by([*order, ("row", "ascending")])


def _signatures(signed: UnitResult | None, extracted: UnitResult) -> dict[str, Any] | None:
    documents = extracted.files[DOCUMENTS]["sha256"]
    if signed is None or signed.record["inputs"]["documents"] != documents:
        return None
    return {"path": str(signed.folder / SIGNATURES), **signed.files[SIGNATURES]}


def _part(name: str, about: dict[str, Any]) -> Part:
    """Raises DataError where the signatures are not those that were written."""
    stays = read_decisions([Path(about["decisions"])]) == KEEP
    signatures = about["signatures"]
    if signatures is None:
        return Part(name, Path(about["index"]), stays, None)
    path = Path(signatures["path"])
    if sha256_file(path) != signatures["sha256"]:
        raise DataError(
            f"{path}: damaged, its SHA-256 is not the recorded one; "
            f"remove the folder {path.parent} and run the stage curate again"
        )
    if (found := pq.read_metadata(path).num_rows) != len(stays):
        raise DataError(
            f"{path}: {found} documents, but {about['decisions']} decides on {len(stays)}; "
            f"remove the folder {path.parent} and run the stage curate again"
        )
    return Part(name, Path(about["index"]), stays, path)


def _keys(part: Part, bucket: int) -> np.ndarray | int:
    return read_keys(part.signatures, bucket)[part.stays] if part.signatures else NO_KEY


def _split(rows: np.ndarray, parts: Sequence[Part]) -> Iterator[np.ndarray]:
    """The sorted rows that fall on each part, counted from its first."""
    begin = 0
    for part in parts:
        low, high = np.searchsorted(rows, [begin, begin + part.rows])
        yield rows[low:high] - begin
        begin += part.rows


def _first_of_each(clusters: np.ndarray) -> np.ndarray:
    """Mask of the rows where a sorted column of clusters begins a new one."""
    return np.append(True, clusters[1:] != clusters[:-1])[: len(clusters)]


def _write_clusters(path: Path, ids: pa.ChunkedArray, stays: np.ndarray) -> None:
    best = np.flatnonzero(stays)[np.cumsum(stays) - 1]
    table = pa.table({"survivor": ids.take(pa.array(best)), "dropped": ids})
    table = table.filter(pa.array(~stays))
    order = [("survivor", "ascending"), ("dropped", "ascending")]
    pq.write_table(table.sort_by(order), path, compression="zstd")
