"""The index beside a unit's documents: what later stages decide on without reading any text."""

from pathlib import Path
from types import TracebackType

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
        ("title_hash", pa.int64()),  # of the normalised title, 0 where none; see title_hash
        ("text_hash", pa.int64()),  # XXH3 of the text: whether a document changed
    ]
)
SHORTEST_TITLE = 30  # letters and digits: "Editorial" and "Case report" name many articles
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
        text = document["text"]
        self._rows.append((
            self._documents, "document", about["pmid"], about["version"], about["pmcid"],
            about["doi"], document["id"], about["retracted"], *self._order, about["language"],
            about["licence"], len(text), about["kind"], about["abstract"], about["notice"],
            about["year"], about["journal"], about["publication_types"],
            title_hash(text.partition("\n")[0]), _hash(text),
        ))  # fmt: skip
        self._documents += 1
        self._write_group()

    def deletion(self, deletion: Deletion) -> None:
        known = (-1, "deletion", deletion.pmid, deletion.version, deletion.pmcid, None, None, False)
        unknown = len(INDEX_SCHEMA) - len(known) - len(self._order)
        self._rows.append((*known, *self._order, *[None] * unknown))
        self._write_group()

    def _write_group(self) -> None:
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


def title_hash(title: str) -> int:
    """64-bit hash of a title's letters and digits, case folded; 0 where they are too few to tell articles apart."""
    letters = "".join(filter(str.isalnum, title.casefold()))
    return _hash(letters) if len(letters) >= SHORTEST_TITLE else 0


def _hash(text: str) -> int:
    # Signed, because that is Arrow's and NumPy's ordinary integer.
    return xxhash.xxh3_64_intdigest(text.encode()) - (1 << 63)
