"""Shard sets whose shard or list is written again with something changed and all hashes in agreement."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.files import sha256_file
from data_prep.shards.manifest import DOCUMENTS_FILE, Manifest, ShardFile
from data_prep.shards.parquet_file import Footer
from data_prep.shards.parquet_writer import ParquetFileWriter
from data_prep.shards.schema import DOCUMENTS
from data_prep.shards.tools.verify import verify
from data_prep.shards.writer import EncodedDocument
from tests.data_prep.shards.encoded import encoded_documents

Rows = list[dict[str, Any]]
BEGIN, END = 298, 299


def documents(number: int = 30, begin: bool = False, **options: Any) -> list[EncodedDocument]:
    """Random documents that end with the end token, some of them longer than a row."""
    made = encoded_documents(number, vocabulary=BEGIN, **options)
    for document in made:
        document.tokens[-1] = END
        if begin:
            document.tokens[0] = BEGIN
    return [document for document in made if len(document.tokens) > 1]


def rewrite(
    folder: Path,
    change: Callable[[Rows], object] = len,
    relist: Callable[[Rows], object] = len,
    group_sizes: list[int] | None = None,
    metadata: dict[str, str] | None = None,
    **fields: Any,
) -> None:
    """Write the set's shard and list again, changed in place, with hashes and checksums that agree."""
    manifest = Manifest.read(folder)
    shard, listed = folder / manifest.files[0].name, folder / DOCUMENTS_FILE
    rows = pq.read_table(shard).to_pylist()
    change(rows)
    form = manifest.form
    writer = ParquetFileWriter(
        shard, form.arrow_schema(), form.encodings(), form.file_metadata() | (metadata or {})
    )
    table = pa.Table.from_pylist(rows, schema=form.arrow_schema())
    sizes = group_sizes or [form.row_group] * (-(-len(rows) // form.row_group))
    for begin, size in zip(np.cumsum([0, *sizes[:-1]]).tolist(), sizes, strict=True):
        writer.write(table.slice(begin, size).combine_chunks())
    writer.close()
    lines = pq.read_table(listed).to_pylist()
    relist(lines)
    pq.write_table(pa.Table.from_pylist(lines, schema=DOCUMENTS), listed, row_group_size=7)
    footer = Footer(shard)
    file = ShardFile(
        name=shard.name,
        bytes=footer.file_bytes,
        sha256=sha256_file(shard),
        footer_sha256=footer.hash,
        rows=len(rows),
    )
    changed = {"files": [file], "documents_sha256": sha256_file(listed)} | fields
    values = manifest.model_dump(mode="json") | changed
    Manifest.model_validate(values).write(folder)


def only_problem(folder: Path) -> str:
    problems = verify(folder)
    assert len(problems) == 1, problems
    assert "\n" not in problems[0]
    return problems[0].removeprefix(f"{folder}")


def cut_document(folder: Path) -> dict[str, Any]:
    """A listed document of at least three rows."""
    listed = pq.read_table(folder / DOCUMENTS_FILE).to_pylist()
    return next(line for line in listed if len(line["rows"]) >= 3)


def piece_of(rows: Rows, name: str, number: int) -> tuple[dict[str, Any], int, dict[str, Any]]:
    """(row, column, piece) of a document's piece, counted from 0."""
    found = []
    for row in rows:
        column = 0
        for piece in row["documents"]:
            if piece["id"] == name:
                found.append((piece["offset"], row, column, piece))
            column += piece["length"]
    _, row, column, piece = sorted(found, key=lambda place: place[0])[number]
    return row, column, piece
