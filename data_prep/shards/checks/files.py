"""Whether a shard set's files are those that its manifest names, and say of themselves what it says."""

from pathlib import Path

import pyarrow.parquet as pq

from data_prep.files import sha256_file
from data_prep.shards.manifest import ShardFile
from data_prep.shards.parquet_file import Footer
from data_prep.shards.schema import DOCUMENTS, ShardFormat
from data_prep.shards.storage import RESTORE

REPORT = "the set was built wrongly: report it"


def hash_problem(path: Path, expected: str) -> str | None:
    """Why the file is not the one with that SHA-256; None where it is."""
    if not path.is_file():
        return f"{path}: missing; {RESTORE}"
    found = sha256_file(path)
    if found != expected:
        return f"{path}: sha256 is {found}, the manifest says {expected}; {RESTORE}"
    return None


def document_list_problem(path: Path, expected: str) -> str | None:
    """Why documents.parquet is not the one with that SHA-256, or no list of documents; None where it is."""
    changed = hash_problem(path, expected)
    if changed or pq.read_schema(path).equals(DOCUMENTS):
        return changed
    return f"{path}: its columns are not {DOCUMENTS.names} of their types; {REPORT}"


def shard_problem(path: Path, file: ShardFile, form: ShardFormat) -> str | None:
    """Why the shard at `path` is not the `file` of the manifest, or not of its format; None where it is."""
    changed = hash_problem(path, file.sha256)
    if changed:
        return changed
    problem = _format_problem(path, file, form)
    return f"{path}: {problem}; {REPORT}" if problem else None


def _format_problem(path: Path, file: ShardFile, form: ShardFormat) -> str | None:
    footer = Footer(path)
    if footer.hash != file.footer_sha256:
        return f"its footer's hash is {footer.hash}, the manifest says {file.footer_sha256}"
    metadata = footer.metadata()
    said = metadata.metadata or {}
    for name, value in form.file_metadata().items():
        if said.get(name.encode()) != value.encode():
            shown = said.get(name.encode(), b"missing").decode(errors="replace")
            return f"{name} in its metadata is {shown}, the manifest says {value}"
    if not metadata.schema.to_arrow_schema().equals(form.arrow_schema()):
        return f"its columns are not {form.arrow_schema().names} of the manifest's types"
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return row_group_problem(rows, file.rows, form)


def row_group_problem(rows: list[int], total: int, form: ShardFormat) -> str | None:
    """What is wrong with a file's row groups of so many rows: full ones, the last of each epoch may be less."""
    if sum(rows) != total:
        return f"it has {sum(rows)} rows, the manifest says {total}"
    size, epochs = form.row_group, form.epochs
    stripes = [rows[begin : begin + epochs] for begin in range(0, len(rows), epochs)]
    for stripe in stripes:
        if len(stripe) != epochs or len(set(stripe)) > 1:
            return f"row groups of {stripe} rows follow each other, expected {epochs} equal ones"
    for stripe in stripes[:-1]:
        if stripe[0] != size:
            return f"a row group has {stripe[0]} rows, expected {size} of all but the last"
    if rows and rows[-1] > size:
        return f"a row group has {rows[-1]} rows, expected {size} at most"
    return None
