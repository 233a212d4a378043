"""The index beside a unit's documents: what later stages decide on without reading any text."""

from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

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
        ("record", pa.string()),  # the metadata's kind: "citation", "book", "full_text", "text"
        ("abstract", pa.bool_()),
        ("notice", pa.bool_()),
        ("year", pa.int32()),
        ("journal", pa.string()),
        ("publication_types", pa.list_(pa.string())),
        ("retracts", pa.list_(pa.int64())),  # PMIDs that this record is the retraction notice of
        ("title_hash", pa.int64()),  # of the normalised title, 0 where none; see title_hash
        ("text_hash", pa.int64()),  # XXH3 of the text: whether a document changed
    ]
)
SHORTEST_TITLE = 30  # letters and digits: "Editorial" and "Case report" name many articles
_ROW_GROUP = 1 << 16  # rows held in memory at once, about
# Columns in which few values occur often; of the others a dictionary would be as long as the column.
_REPEATED = [
    "kind", "language", "licence", "record", "journal", "publication_types.list.element",
]  # fmt: skip
_METADATA = ("pmid", "version", "pmcid", "doi", "retracted", "language", "licence", "abstract", "notice",
             "year", "journal", "publication_types")  # fmt: skip
_metadata_of = itemgetter(*_METADATA, "kind", "links")
_NO_LETTER = bytes(code for code in range(128) if not chr(code).isalnum())


class IndexWriter:
    """Writes a row for each document and deletion, in the order in which they come."""

    def __init__(self, path: Path, order: tuple[int, int] | None):
        self._writer = pq.ParquetWriter(
            path, INDEX_SCHEMA, compression="zstd", use_dictionary=_REPEATED, write_statistics=False
        )
        self._order: tuple[int | None, int | None] = order or (None, None)
        self._tables: list[pa.Table] = []
        self._rows = 0
        self._documents = 0

    def documents(self, batch: Sequence[Document]) -> pa.Table:
        """Write rows for these documents, and return them."""
        texts = [document["text"] for document in batch]
        # Each document's metadata once: a look-up costs little, to fetch it from memory again for each column much.
        *values, kinds, links = zip(
            *[_metadata_of(document["metadata"]) for document in batch], strict=True
        )
        columns: dict[str, Any] = dict(zip(_METADATA, values, strict=True)) | {
            "position": np.arange(self._documents, self._documents + len(batch)),
            "kind": ["document"] * len(batch),
            "id": [document["id"] for document in batch],
            "characters": [len(text) for text in texts],
            "record": kinds,
            "retracts": [_retracts(named) if named else [] for named in links],
            "title_hash": [title_hash(text.partition("\n")[0]) for text in texts],
            "text_hash": content_hashes(texts),
        }
        self._documents += len(batch)
        return self._add(columns, len(batch))

    def deletions(self, batch: Sequence[Deletion]) -> None:
        """Write rows for these deletions."""
        columns: dict[str, Any] = {
            "position": [-1] * len(batch),
            "kind": ["deletion"] * len(batch),
            "pmid": [deletion.pmid for deletion in batch],
            "version": [deletion.version for deletion in batch],
            "pmcid": [deletion.pmcid for deletion in batch],
            "retracted": [False] * len(batch),
        }
        self._add(columns, len(batch))

    def _add(self, columns: dict[str, Any], rows: int) -> pa.Table:
        for name, value in zip(("file_year", "file_number"), self._order, strict=True):
            columns[name] = [value] * rows
        arrays = [
            pa.array(columns[field.name], field.type)
            if field.name in columns
            else pa.nulls(rows, field.type)
            for field in INDEX_SCHEMA
        ]
        table = pa.Table.from_arrays(arrays, schema=INDEX_SCHEMA)
        self._tables.append(table)
        self._rows += rows
        if self._rows >= _ROW_GROUP:
            self._write()
        return table

    def _write(self) -> None:
        self._writer.write_table(pa.concat_tables(self._tables), row_group_size=self._rows)
        self._tables.clear()
        self._rows = 0

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


def _retracts(links: list[dict[str, Any]]) -> list[int]:
    return [link["pmid"] for link in links if link["type"] == "RetractionOf" and link["pmid"]]


def title_hash(title: str) -> int:
    """64-bit hash of a title's letters and digits, case folded; 0 where they are too few to tell articles apart."""
    if title.isascii():  # nearly all are, and this is ten times as fast
        letters = title.lower().encode().translate(None, _NO_LETTER)
        return _signed(letters) if len(letters) >= SHORTEST_TITLE else 0
    folded = "".join(filter(str.isalnum, title.casefold()))
    return content_hash(folded) if len(folded) >= SHORTEST_TITLE else 0


def content_hash(text: str) -> int:
    """XXH3 of a text, or of a document's id; signed, because that is Arrow's and NumPy's ordinary integer."""
    return _signed(text.encode())


def content_hashes(texts: Sequence[str]) -> np.ndarray:
    """`content_hash` of each text: int64 (n,)."""
    digests = [xxhash.xxh3_64_intdigest(text.encode()) for text in texts]
    return (np.array(digests, np.uint64) ^ np.uint64(1 << 63)).view(np.int64)


def _signed(content: bytes) -> int:
    return xxhash.xxh3_64_intdigest(content) - (1 << 63)
