"""Parquet files of which no byte can change unnoticed.

Parquet's page checksums cover a page's data but not its header, so the file's metadata also carries the
CRC-32 of every row group's bytes (from the end of the group before it, or from the first byte of the
file, to its own end). The footer, which holds those sums, is checked against a hash kept elsewhere. The
price is a pass of CRC-32 over bytes in memory, a few per cent of decoding them.
"""

import hashlib
import io
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import DataError
from data_prep.shards.schema import ROW_GROUP_CHECKSUMS

MAGIC = b"PAR1"
TAIL = 8  # the footer ends with its length in four bytes and the magic


class Footer:
    """The end of a Parquet file: its metadata, its own hash, and where the row groups lie.

    Raises DataError, saying `advice`, where the file is not Parquet or its end is damaged.
    """

    def __init__(self, path: Path, advice: str = "build it again"):
        self.path, self.advice = path, advice
        try:
            with path.open("rb") as stream:
                self.file_bytes = stream.seek(0, os.SEEK_END)
                stream.seek(max(self.file_bytes - TAIL, 0))
                tail = stream.read(TAIL)
                length = int.from_bytes(tail[:4], "little") + TAIL
                if tail[4:] != MAGIC or length > self.file_bytes:
                    raise DataError(f"{path}: not a whole Parquet file; {advice}")
                stream.seek(self.file_bytes - length)
                self.content = stream.read(length)
        except OSError as error:
            raise DataError(f"{path}: cannot read ({error.strerror}); {advice}") from error

    @property
    def hash(self) -> str:
        """Hex SHA-256 of the footer's bytes, its length and the closing magic included."""
        return hashlib.sha256(self.content).hexdigest()

    def metadata(self) -> pq.FileMetaData:
        try:
            return pq.read_metadata(pa.BufferReader(MAGIC + self.content))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self.path}: its footer is not Parquet; {self.advice}") from error

    def row_group_ends(self, metadata: pq.FileMetaData) -> list[int]:
        """Where each row group's bytes end; the first begins with the file."""
        begins = [_begin(metadata.row_group(group)) for group in range(metadata.num_row_groups)]
        return [*begins[1:], self.file_bytes - len(self.content)]


def _begin(group: pq.RowGroupMetaData) -> int:
    return min(group.column(index).data_page_offset for index in range(group.num_columns))


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


def read_row_group(footer: Footer, group: int, columns: Sequence[str]) -> pa.Table:
    """The row group's columns, every byte of it checked.

    Raises DataError naming file and row group where a checksum does not hold.
    """
    metadata = footer.metadata()
    ends = footer.row_group_ends(metadata)
    begin = ends[group - 1] if group else 0
    expected = (metadata.metadata or {})[ROW_GROUP_CHECKSUMS.encode()].split()[group].decode()
    try:
        with footer.path.open("rb") as stream:
            stream.seek(begin)
            content = stream.read(ends[group] - begin)
    except OSError as error:
        raise DataError(f"{footer.path}: row group {group}: {error.strerror}") from error
    found = f"{zlib.crc32(content):08x}"
    if found != expected:
        raise DataError(
            f"{footer.path}: row group {group}: checksum is {found}, written was {expected}; "
            f"{footer.advice}"
        )
    try:
        return pq.ParquetFile(
            _BytesAt(content, begin, footer.file_bytes),
            metadata=metadata,
            page_checksum_verification=True,
            pre_buffer=False,
        ).read_row_group(group, columns=list(columns), use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{footer.path}: row group {group}: not readable ({error}); {footer.advice}"
        ) from error
