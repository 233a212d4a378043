"""Parquet files of which no byte can change unnoticed, read row group by row group.

Parquet's page checksums cover a page's data but not its header, so the file's metadata also carries the
CRC-32 of every row group's bytes (from the end of the group before it, or from the first byte of the
file, to its own end). The footer, which holds those sums, is checked against a hash kept elsewhere. A
read checks that sum, over bytes in memory, and leaves out the page checksums, which say the same of
fewer bytes and take ten times as long (isal's CRC-32: 0.6 % of decoding; Arrow's: 9 %).
"""

import hashlib
import io
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from isal import isal_zlib

from data_prep.errors import DataError
from data_prep.shards.schema import ROW_GROUP_CHECKSUMS
from data_prep.shards.storage import LocalStorage, Storage, UnreadableError

MAGIC = b"PAR1"
TAIL = 8  # the footer ends with its length in four bytes and the magic


def read_footer(storage: Storage, name: str, file_bytes: int, guess: int = TAIL) -> bytes:
    """The footer of a file, its length and the closing magic included.

    Asks for the last `guess` bytes, then for what they leave out. Raises UnreadableError where the file
    is not Parquet or its end is damaged.
    """
    begin = max(0, file_bytes - max(guess, TAIL))
    content = storage.read(name, begin, file_bytes)
    length = int.from_bytes(content[-TAIL:-4], "little") + TAIL
    if content[-4:] != MAGIC or length > file_bytes:
        raise UnreadableError("not a whole Parquet file")
    if length > len(content):
        content = storage.read(name, file_bytes - length, begin) + content
    return content[-length:]


def footer_hash(footer: bytes) -> str:
    """Hex SHA-256 of a footer as read_footer gives it."""
    return hashlib.sha256(footer).hexdigest()


class RowGroups:
    """Where a file's row groups lie, and how their bytes become tables. Raises UnreadableError."""

    def __init__(self, footer: bytes, file_bytes: int):
        self.metadata = _parse(footer)
        self._file_bytes = file_bytes
        self._end = file_bytes - len(footer)
        self._checksums = (self.metadata.metadata or {})[ROW_GROUP_CHECKSUMS.encode()].split()

    def span(self, group: int) -> tuple[int, int]:
        """The bytes of a row group: the first begins with the file, the last ends at the footer."""
        last = group + 1 == self.metadata.num_row_groups
        return self._begin(group) if group else 0, self._end if last else self._begin(group + 1)

    def table(self, group: int, content: bytes, columns: Sequence[str]) -> pa.Table:
        """The row group's columns, from its bytes, all of them checked."""
        found = f"{isal_zlib.crc32(content):08x}"
        if found != (expected := self._checksums[group].decode()):
            raise UnreadableError(f"checksum is {found}, written was {expected}")
        source = _BytesAt(content, self.span(group)[0], self._file_bytes)
        try:
            file = pq.ParquetFile(source, metadata=self.metadata, pre_buffer=False)
            return file.read_row_group(group, columns=list(columns), use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise UnreadableError(f"not readable ({error})") from error

    def _begin(self, group: int) -> int:
        chunks = self.metadata.row_group(group)
        return min(chunks.column(index).data_page_offset for index in range(chunks.num_columns))


class Footer:
    """The end of a local Parquet file: its metadata and its own hash.

    Raises DataError, saying `advice`, where the file is not Parquet or its end is damaged.
    """

    def __init__(self, path: Path, advice: str = "build it again"):
        self.path, self.advice = path, advice
        storage = LocalStorage(path.parent)
        try:
            self.file_bytes = storage.size(path.name)
            self.content = read_footer(storage, path.name, self.file_bytes)
        except UnreadableError as error:
            raise DataError(f"{path}: {error.reason}; {advice}") from error

    @property
    def hash(self) -> str:
        return footer_hash(self.content)

    def metadata(self) -> pq.FileMetaData:
        return self.groups.metadata

    @cached_property
    def groups(self) -> RowGroups:
        try:
            return RowGroups(self.content, self.file_bytes)
        except UnreadableError as error:
            raise DataError(f"{self.path}: {error.reason}; {self.advice}") from error


def _parse(footer: bytes) -> pq.FileMetaData:
    try:
        return pq.read_metadata(pa.BufferReader(MAGIC + footer))
    except (OSError, pa.ArrowException) as error:
        raise UnreadableError("its footer is not Parquet") from error


class _BytesAt(io.RawIOBase):
    """A file of which only the bytes from `begin` on are here."""

    def __init__(self, content: bytes, begin: int, file_bytes: int):
        self.content, self.begin, self.file_bytes = content, begin, file_bytes
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.file_bytes}
        self.position = base[whence] + offset
        return self.position

    def read(self, size: int = -1) -> bytes:
        first = self.position - self.begin
        found = self.content[first : first + size if size >= 0 else None]
        self.position += len(found)
        return found
