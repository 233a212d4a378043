"""The stage that computes what near-duplicates are found by: bucket keys of every extracted document.

It comes after extract and before near_duplicates. Its only input is the documents' text: which of them
stay is the reduce's business, or each update file, which replaces records in every older file, would have
every signature computed again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.config import CorpusConfig, NearDuplicates
from data_prep.curate.clusters import NO_KEY
from data_prep.curate.minhash import MinHash
from data_prep.curate.words import in_batches
from data_prep.documents import DOCUMENTS, read_documents
from data_prep.units import Stage, Unit, finished, source_of

DIRECTORY = "signatures"
SIGNATURES = "signatures.parquet"
_ROW_GROUP = 1 << 16  # documents: 7 MB of keys


class SignaturesStage(Stage):
    """A unit per extracted unit: signatures.parquet, a row for each document, in order.

    Its columns (`bucket_name`, uint64) hold the key of each bucket, 0 where a document has fewer words than
    a shingle. Documents with an equal key in any bucket are taken for near-duplicates. 112 bytes a
    document with 14 buckets; the keys are random, so that no codec makes them smaller.
    """

    name = "signatures"
    version = 1

    def __init__(self, config: CorpusConfig):
        about = config.curate.near_duplicates or NearDuplicates()
        self.directory = config.output / DIRECTORY
        self.extracted = config.extracted
        self.sources = frozenset(config.sources)
        self.settings = about.model_dump()

    def units(self) -> list[Unit]:
        return [
            Unit(
                result.name,
                inputs={"documents": result.files[DOCUMENTS]["sha256"]},
                bytes=result.files[DOCUMENTS]["bytes"],
                payload={"documents": str(result.folder / DOCUMENTS)},
            )
            for result in finished(self.extracted)
            if source_of(result.name) in self.sources
        ]

    def run_unit(self, unit: Unit, folder: Path) -> dict[str, Any]:
        about = NearDuplicates(**self.settings)
        minhash = MinHash(about.words, about.buckets, about.hashes_per_bucket)
        documents = unsigned = 0
        with KeyWriter(folder / SIGNATURES, about.buckets) as writer:
            for batch in in_batches(read_documents(Path(unit.payload["documents"]))):
                keys = minhash.bucket_keys([document["text"] for document in batch])
                writer.write(keys)
                documents += len(keys)
                unsigned += int((keys[:, 0] == NO_KEY).sum())
        return {"documents": documents, "too_short_to_compare": unsigned}


def bucket_name(bucket: int) -> str:
    """The column of a bucket."""
    return f"bucket_{bucket:02d}"


def read_keys(path: Path, bucket: int) -> np.ndarray:
    """One bucket's key of each document of a unit: uint64, shape (documents,)."""
    return pq.read_table(path, columns=[bucket_name(bucket)])[0].to_numpy()


class KeyWriter:
    """Writes bucket keys in row groups of a bounded size."""

    def __init__(self, path: Path, buckets: int):
        names = [bucket_name(bucket) for bucket in range(buckets)]
        self._schema = pa.schema([(name, pa.uint64()) for name in names])
        self._writer = pq.ParquetWriter(
            path, self._schema, compression="none", use_dictionary=False
        )
        self._parts: list[np.ndarray] = []
        self._rows = 0

    def write(self, keys: np.ndarray) -> None:
        """Add rows: uint64, shape (documents, buckets)."""
        self._parts.append(keys)
        self._rows += len(keys)
        if self._rows >= _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._parts:
            columns = np.ascontiguousarray(np.concatenate(self._parts).T)
            self._writer.write_table(pa.Table.from_arrays(list(columns), schema=self._schema))
            self._parts, self._rows = [], 0

    def __enter__(self) -> KeyWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._flush()
        self._writer.close()
