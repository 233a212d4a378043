"""What stands beside a converted set, so that the way back restores it: its documents, and what it was.

A Parquet file of what documents.parquet says, with the set's manifest in the file's own metadata.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import DataError
from data_prep.shards.manifest import Manifest
from data_prep.shards.parquet_writer import COMPRESSION

MANIFEST_KEY = b"shard_set"
WRITTEN_TOGETHER = 1 << 16  # documents: a row group of the file


class OriginWriter:
    """Writes tables of documents, in the order in which they come, with the manifest of their set."""

    def __init__(self, path: Path, schema: pa.Schema, manifest: Manifest):
        described = schema.with_metadata({MANIFEST_KEY: manifest.model_dump_json().encode()})
        self._writer = pq.ParquetWriter(path, described, **COMPRESSION)
        self._schema = described
        self._waiting: list[pa.Table] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def write(self, documents: pa.Table) -> None:
        self._waiting.append(documents.cast(self._schema.remove_metadata()))
        if sum(map(len, self._waiting)) >= WRITTEN_TOGETHER:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(
                pa.concat_tables(self._waiting).replace_schema_metadata(self._schema.metadata)
            )
        self._waiting = []


class Origin:
    """Reads what OriginWriter wrote, from the first document on.

    manifest: of the set that was converted. Raises DataError where the file is none of these.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._file = pq.ParquetFile(path)
            content = (self._file.schema_arrow.metadata or {})[MANIFEST_KEY]
            self.manifest = Manifest.model_validate_json(content)
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            raise DataError(
                f"{path}: missing, or not the list of documents that `convert` wrote there; restore it, or "
                "convert the set again"
            ) from error
        self._batches: Iterator[pa.RecordBatch] = self._file.iter_batches()
        self._rest = self._file.schema_arrow.empty_table()

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def take(self, documents: int) -> pa.Table:
        """The next documents, fewer only where there are no more."""
        parts = [self._rest]
        while sum(map(len, parts)) < documents and (batch := next(self._batches, None)):
            parts.append(pa.Table.from_batches([batch]))
        table = pa.concat_tables(parts)
        self._rest = table.slice(documents)
        return table.slice(0, documents)


def check_tokenizer(origin: Origin, fingerprint: str, tokenizer: Path) -> None:
    """Raise DataError where the tokenizer is not the one that encoded the set."""
    expected = origin.manifest.tokenizer_fingerprint
    if fingerprint != expected:
        raise DataError(
            f"{tokenizer}: its fingerprint is {fingerprint[:16]}…, but {origin.path.name} says that the "
            f"tokens are of {expected[:16]}…; give the folder tokenizer/ of the set that was converted"
        )
