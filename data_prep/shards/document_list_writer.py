"""The list of a shard's documents while the shard is written, in bounded memory."""

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.shards.document_list import merge_documents
from data_prep.shards.parquet_writer import COMPRESSION

SORTED_AT_ONCE = 1 << 18  # documents, about 50 MB; a source's file has fewer


class DocumentListWriter:
    """Takes tables as of documents.parquet in any order and writes them sorted by id.

    Many documents are sorted part by part into a hidden folder beside the list, and merged in the end.
    """

    def __init__(self, path: Path):
        self._path = path
        self._tables: list[pa.Table] = []
        self._waiting = 0  # documents
        self._runs: list[Path] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def add(self, documents: pa.Table) -> None:
        self._tables.append(documents)
        self._waiting += len(documents)
        if self._waiting >= SORTED_AT_ONCE:
            self._spill()

    def write(self) -> None:
        """Write the list. Raises DataError where two documents of many have the same id."""
        if not self._runs:
            pq.write_table(self._sorted(), self._path, **COMPRESSION)
            return
        self._spill()
        merge_documents([(run, 0) for run in self._runs], self._path)
        assert self._folder is not None
        self._folder.cleanup()

    def _spill(self) -> None:
        if not self._tables:
            return
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(dir=self._path.parent, prefix=".listed")
        run = Path(self._folder.name) / f"{len(self._runs)}.parquet"
        pq.write_table(self._sorted(), run, **COMPRESSION)
        self._runs.append(run)
        self._tables, self._waiting = [], 0

    def _sorted(self) -> pa.Table:
        return pa.concat_tables(self._tables).sort_by("id").combine_chunks()
