"""The index beside a unit's documents: what later stages decide on without reading any text."""

from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.documents import Deletion, Document

INDEX_SCHEMA = pa.schema(
    [
        ("position", pa.int64()),  # place in documents.jsonl.zst; -1 for a deletion
        ("kind", pa.string()),  # "document" or "deletion"
        ("pmid", pa.int64()),
        ("version", pa.int32()),
        ("pmcid", pa.string()),
        ("doi", pa.string()),
        ("id", pa.string()),
        ("retracted", pa.bool_()),
        ("file_year", pa.int32()),  # of a PubMed file's name, as in pubmed26n1334: 2026 and 1334
        ("file_number", pa.int32()),
        ("language", pa.string()),
        ("licence", pa.string()),
        ("characters", pa.int64()),
    ]
)
_ROW_GROUP = 1 << 16  # rows held in memory at once


class IndexWriter:
    """Writes a row for each document and deletion, in the order in which they come."""

    def __init__(self, path: Path, order: tuple[int, int] | None):
        self._writer = pq.ParquetWriter(path, INDEX_SCHEMA, compression="zstd")
        self._order = order or (None, None)
        self._rows: list[tuple] = []
        self._documents = 0

    def document(self, document: Document) -> None:
        about = document["metadata"]
        keys = (about["pmid"], about["version"], about["pmcid"], about["doi"], document["id"])
        filtered = (about["language"], about["licence"], len(document["text"]))
        self._add((self._documents, "document", *keys, about["retracted"]), filtered)
        self._documents += 1

    def deletion(self, deletion: Deletion) -> None:
        keys = (deletion.pmid, deletion.version, None, None, None)
        self._add((-1, "deletion", *keys, False), (None, None, None))

    def _add(self, about: tuple, filtered: tuple) -> None:
        self._rows.append((*about, *self._order, *filtered))
        if len(self._rows) == _ROW_GROUP:
            self._write()

    def _write(self) -> None:
        columns = zip(*self._rows, strict=True)
        arrays = [
            pa.array(column, field.type)
            for column, field in zip(columns, INDEX_SCHEMA, strict=True)
        ]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=INDEX_SCHEMA))
        self._rows.clear()

    def __enter__(self) -> "IndexWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._rows:
            self._write()
        self._writer.close()
