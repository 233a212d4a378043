"""Tables whose rows are documents: Parquet, CSV and TSV files."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.documents import Document, Reject
from data_prep.errors import DataError
from data_prep.source_config import Source
from data_prep.sources.compressed import UNREADABLE, open_input
from data_prep.sources.records import RecordReader, field_of, names_of, too_large

_BATCH = 256  # rows read at once, fewer of large ones, however many a row group has
_BATCH_BYTES = 4 << 20  # of them, on average
_BUFFER_BYTES = (
    1 << 20
)  # of a Parquet file's column; without one, whole row groups are read at once


def read_parquet(
    path: Path, name: str, source: Source, tally: Counter[str]
) -> Iterator[Document | Reject]:
    """Yield the documents of a Parquet file, a row each; `source.fields` names the columns.

    A row without a text, or with more than `source.max_article_bytes` characters of it, gives a Reject; raises
    DataError where the column of texts is missing or the file is broken, after the rows before.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = RecordReader(name, source.fields, tally)
    number = 0
    try:
        with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            columns = _columns(path, file.schema_arrow.names, source)
            # Arrow's threads read ahead, as far as they get.
            batches = file.iter_batches(_rows_at_once(file), columns=columns, use_threads=False)
            for batch in batches:
                for row in batch.to_pylist():
                    number += 1
                    yield _of_row(records, row, number, f"{name}: row {number}", source)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path}: broken after row {number}: {reason}; fetch or write the file again"
        ) from error


def _rows_at_once(file: Any) -> int:
    """How many rows of a ParquetFile are read at once: by its row group with the largest rows."""
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    widest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    return max(1, min(_BATCH, _BATCH_BYTES // max(widest, 1)))


def _of_row(
    records: RecordReader, row: dict[str, Any], number: int, place: str, source: Source
) -> Document | Reject:
    text = field_of(row, source.fields.text)
    if isinstance(text, str) and len(text) > source.max_article_bytes:
        return too_large(place, source.max_article_bytes)
    return records.read(row, number, place)


def _columns(path: Path, names: list[str], source: Source) -> list[str]:
    """The columns that the fields lie in, nested ones whole; DataError where one that the config names is missing."""
    found = set()
    for key, field in source.fields.model_dump().items():
        column = field if field is None or field in names else field.partition(".")[0]
        if column in names:
            found.add(column)
        elif field is not None and (key, field) != ("id", "id"):  # the default may be absent
            raise DataError(
                f'{path}: no column "{field}"; the columns are {names_of(names)}: '
                f"set fields.{key} of the source to one of them"
            )
    return sorted(found)


def read_csv(
    path: Path, name: str, source: Source, tally: Counter[str]
) -> Iterator[Document | Reject]:
    """Yield the documents of a UTF-8 CSV or TSV file with a header, a row each (.csv, .csv.gz, .tsv).

    A row of another width than the header, with broken quotes or a field longer than
    `source.max_article_bytes` gives a Reject; raises DataError where the column of texts is missing, the file is cut or not UTF-8.
    """
    csv.field_size_limit(source.max_article_bytes)
    dialect = csv.excel_tab if path.name.endswith(".tsv") else csv.excel
    # Strict: a quote that nothing closes would otherwise make one field of the rest of the file.
    rows = csv.reader(_lines(path), dialect, strict=True)
    try:
        header = next(rows, [])
    except csv.Error as error:
        raise DataError(f"{path}: line 1: {error}; expected the names of the columns") from error
    if len(set(header)) < len(header):
        raise DataError(f"{path}: line 1: a column's name is there twice; rename one")
    _columns(path, header, source)
    records = RecordReader(name, source.fields, tally)
    number = 0
    while True:
        begins = rows.line_num + 1
        place = f"{name}: line {begins}"
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield Reject(place, f"not CSV: {error}")
            continue
        if row is None:
            return
        if not row:  # a blank line
            continue
        number += 1
        if len(row) != len(header):
            yield Reject(place, f"another width: {len(row)} fields, the header has {len(header)}")
        else:
            record: dict[str, Any] = dict(zip(header, row, strict=True))
            yield records.read(record, number, place)


def _lines(path: Path) -> Iterator[str]:
    position = 0
    try:
        with open_input(path) as stream:
            for line in stream:
                encoding = "utf-8-sig" if position == 0 else "utf-8"
                yield line.decode(encoding)
                position += len(line)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {position + error.start}: not UTF-8 ({error.reason}); "
            "convert the file to UTF-8"
        ) from error
    except UNREADABLE as error:  # type: ignore[misc]
        raise DataError(
            f"{path}: broken after byte {position}: {error}; fetch the file again"
        ) from error
