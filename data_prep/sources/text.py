"""Plain text: files of one document each, or JSON lines with a field "text"."""

import codecs
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from data_prep.documents import Document, Reject, empty_metadata, open_lines
from data_prep.errors import DataError

JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
SUFFIXES = (*JSON_LINES, ".txt")


def read_texts(path: Path, name: str | None = None) -> Iterator[Document | Reject]:
    """Yield the documents of a .txt file (one) or of a .jsonl, .jsonl.gz or .jsonl.zst file (one a line).

    Ids are "text:NAME#KEY": KEY is the record's "id" or else its line number, NAME the file's name
    unless given. A line that is no JSON object with a text gives a Reject; raises DataError where
    the file is of another kind, is cut, or a .txt is not UTF-8.
    """
    name = name or path.name
    if path.name.endswith(JSON_LINES):
        yield from _read_lines(path, name)
    elif path.name.endswith(".txt"):
        yield _read_whole(path, name)
    else:
        raise DataError(
            f"{path}: expected one of {', '.join(SUFFIXES)}; rename or convert the file"
        )


def _read_whole(path: Path, name: str) -> Document | Reject:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start}: not UTF-8 ({error.reason}); convert the file to UTF-8"
        ) from error
    return _document(name, 1, text) if text.strip() else Reject(name, "no text: the file is empty")


def _read_lines(path: Path, name: str) -> Iterator[Document | Reject]:
    number = 0
    try:
        with open_lines(path) as lines:
            for number, line in enumerate(lines, start=1):
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    yield _record(line, name, number)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"{path}: broken after line {number}: {error}; fetch the file again"
        ) from error


def _record(line: bytes, name: str, number: int) -> Document | Reject:
    place = f"{name}: line {number}"
    try:
        record: Any = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return Reject(place, f"not JSON: {error}")
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        return Reject(place, 'no text: expected an object with a string "text"')
    if not text.strip():
        return Reject(place, 'no text: "text" is empty')
    key = record.get("id")
    return _document(name, number if key is None or key == "" else key, text)


def _document(name: str, key: str | int, text: str) -> Document:
    return Document(id=f"text:{name}#{key}", text=text, source="text", metadata=empty_metadata())
