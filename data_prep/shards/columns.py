"""Curated documents as columns: their texts, and what documents.parquet says of them.

Arrow reads JSON straight into columns, and of each document only what shards need: a quarter of the time of
an object for every line and value. It decides nothing: the lines are those that curation wrote.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from data_prep.documents import RAW_BYTES, read_blocks
from data_prep.errors import DataError
from data_prep.shards.encoded import ABOUT, METADATA

RECORD = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("text", pa.string()),
        pa.field("source", pa.string()),
        pa.field("metadata", pa.struct([ABOUT.field(name) for name in METADATA])),
    ]
)
PARSING = pj.ParseOptions(explicit_schema=RECORD, unexpected_field_behavior="ignore")


def read_columns(path: Path, size: int = RAW_BYTES) -> Iterator[tuple[list[str], pa.Table]]:
    """The texts of a file's documents, some `size` bytes of lines at a time, and their rows of ABOUT.

    Raises DataError naming the file where a line is no document.
    """
    for block in read_blocks(path, size):
        try:
            yield _columns(block)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise DataError(
                f"{path}: a line is not a document ({' '.join(str(error).split())}); run the stage curate again"
            ) from error


def _columns(block: bytes) -> tuple[list[str], pa.Table]:
    # One block for Arrow too, which wants every line whole within one.
    reading = pj.ReadOptions(use_threads=False, block_size=len(block) + 1)
    table = pj.read_json(pa.BufferReader(block), reading, PARSING).combine_chunks()
    for name in ("id", "text", "source"):
        if table[name].null_count:
            raise pa.ArrowInvalid(f"it has no {name}")
    metadata = table["metadata"].combine_chunks()
    columns = {
        "id": table["id"],
        "source": table["source"],
        "bytes": pc.binary_length(table["text"]).cast(pa.int64()),
    } | {name: pc.struct_field(metadata, name) for name in METADATA}
    about = pa.table([columns[name] for name in ABOUT.names], schema=ABOUT)
    about.validate(full=True)  # Arrow takes what is no UTF-8
    return table["text"].to_pylist(), about
