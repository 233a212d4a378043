"""Plain text: files of one document each, or JSON lines with a text field."""

import codecs
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from data_prep.documents import Document, Reject
from data_prep.errors import DataError
from data_prep.source_config import Fields
from data_prep.sources.compressed import UNREADABLE, open_input
from data_prep.sources.records import RecordReader, too_large

JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
SUFFIXES = (*JSON_LINES, ".txt")
_STEP = 1 << 20  # bytes of a line that is passed over
_NO_LIMIT = 1 << 60  # bytes: more than any file has


def read_texts(
    path: Path,
    name: str | None = None,
    fields: Fields | None = None,
    tally: Counter[str] | None = None,
    max_bytes: int = _NO_LIMIT,
) -> Iterator[Document | Reject]:
    """Yield the documents of a .txt file (one) or of a .jsonl, .jsonl.gz or .jsonl.zst file (one a line).

    `name` is what ids call the file, its name unless given; `fields` say what a line's object holds where;
    ids are RecordReader's. A line that is no JSON object with a text, or has more than `max_bytes`, gives a
    Reject, and so does a larger .txt; raises DataError where the file is of another kind, is cut, or a .txt is
    not UTF-8.
    """
    name = name or path.name
    tally = Counter() if tally is None else tally
    if path.name.endswith(JSON_LINES):
        yield from _read_lines(path, RecordReader(name, fields or Fields(), tally), name, max_bytes)
    elif path.name.endswith(".txt"):
        yield _read_whole(path, name, max_bytes)
    else:
        raise DataError(
            f"{path}: expected one of {', '.join(SUFFIXES)}; rename or convert the file"
        )


def _read_whole(path: Path, name: str, max_bytes: int) -> Document | Reject:
    if path.stat().st_size > max_bytes:
        return too_large(name, max_bytes)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start}: not UTF-8 ({error.reason}); convert the file to UTF-8"
        ) from error
    if not text.strip():
        return Reject(name, "no text: the file is empty")
    return RecordReader(name, Fields(), Counter()).read({"text": text}, 1, name)


def _read_lines(
    path: Path, records: RecordReader, name: str, max_bytes: int
) -> Iterator[Document | Reject]:
    for number, line in numbered_lines(path, max_bytes):
        place = f"{name}: line {number}"
        if line is None:
            yield too_large(place, max_bytes)
            continue
        try:
            record: Any = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield Reject(place, f"not JSON: {error}")
        else:
            yield records.read(record, number, place)


def numbered_lines(path: Path, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """The lines of a file that may be compressed, from 1 on, without those that are blank and without a byte order mark.

    Instead of a line of more than `max_bytes` comes None, and no more of it is in memory. Raises DataError
    where the file is cut, after the lines before.
    """
    number = 0
    try:
        with open_input(path) as lines:
            while line := lines.readline(max_bytes + 1):
                number += 1
                if len(line) > max_bytes and not line.endswith(b"\n"):
                    while line and not line.endswith(b"\n"):
                        line = lines.readline(_STEP)
                    yield number, None
                    continue
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    yield number, line
    except UNREADABLE as error:  # type: ignore[misc]
        raise DataError(
            f"{path}: broken after line {number}: {error}; fetch the file again"
        ) from error
