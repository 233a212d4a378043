"""Writes parts: articles of PMC's bucket as JSON lines with Zstandard, large files that appear whole.

A line is {"key", "about", "xml"}: the article version, its metadata JSON, its JATS. Instead of "xml" one that cannot be read
has "broken" (the reason), and {"key", "withdrawn": true} takes back the article's versions up to this one.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import zstandard

from data_prep.download.pmc.articles import next_number, part_name, rows_path, write_rows
from data_prep.download.transfer import keep
from data_prep.errors import DataError
from data_prep.files import sha256_file

Row = tuple[int, int, int, int, int]  # articles.SCHEMA
# An unfinished part of articles that nobody wants is as much work to lose as a large one of others.
MOST_ROWS = 200_000


class PartWriter:
    """One part after the other, each of about `part_bytes`."""

    def __init__(self, folder: Path, part_bytes: int):
        self._folder = folder
        self._part_bytes = part_bytes
        self.written: dict[str, str] = {}  # SHA-256 of the parts that are finished, by name
        self._number = next_number(folder)
        self._open()

    def _open(self) -> None:
        self._rows: list[Row] = []
        self._lines = 0
        self._aside = self._folder / "files" / f".{part_name(self._number)}.part"
        self._file = self._aside.open("wb")
        self._stream = zstandard.ZstdCompressor(level=3).stream_writer(self._file, closefd=True)

    def write(self, record: dict[str, Any] | None, row: Row) -> None:
        """Add an article's record, where it has one, and its row. Raises OSError."""
        if record is not None:
            self._stream.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
            self._lines += 1
        self._rows.append(row)

    @property
    def is_full(self) -> bool:
        """Whether the part is large enough to be finished."""
        return self._file.tell() >= self._part_bytes or len(self._rows) >= MOST_ROWS

    def finish(self) -> None:
        """Give the part its name once it is known to be whole, and begin the next."""
        self._stream.close()
        sha256 = self._verified() if self._lines else None
        if self._rows:
            # The rows first: rows without a part are forgotten, a part without rows would be fetched again.
            write_rows(rows_path(self._folder, self._number), self._rows, sha256)
        if sha256:
            name = part_name(self._number)
            keep(self._aside, self._folder / "files" / name)
            self.written[name] = sha256
        if self._rows:
            self._number += 1
        self._open()

    def _verified(self) -> str:
        lines = 0
        # Unlike zstandard's own reader, Arrow's says so where the stream is cut short.
        with pa.input_stream(self._aside, compression="zstd") as stream:  # type: ignore[arg-type]
            while block := stream.read(1 << 20):
                lines += block.count(b"\n")
        if lines != self._lines:
            raise DataError(
                f"{self._aside}: {self._lines} articles were written, {lines} can be read; check the disk"
            )
        return sha256_file(self._aside)

    def abandon(self) -> None:
        """Close and remove the part that is begun."""
        with suppress(OSError):  # a full disk has been told already
            self._stream.close()
        self._aside.unlink(missing_ok=True)
