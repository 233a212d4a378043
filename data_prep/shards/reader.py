"""Reads shard sets, local or remote: tokens as NumPy views of Arrow buffers, never through Python lists.

Opening a set reads its manifest and, of a local one, looks at the size of every file. The end of a file
is read and checked when one of its row groups is first asked for; reading a row group reads exactly its
bytes, checks them and decodes them. Every byte is thus held against one manifest: of a set that is
rebuilt meanwhile a reader gets the rows it opened or an error, never a mix. Sets can be pickled, forked
and read by several threads; of what they keep (ends of files) the memory is bounded.
"""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import DataError
from data_prep.files import sha256_file
from data_prep.shards.manifest import DOCUMENTS_FILE, MANIFEST, TOKENIZER_FOLDER, Manifest
from data_prep.shards.parquet_file import RowGroups, footer_hash, read_footer
from data_prep.shards.storage import (
    RESTORE,
    Place,
    Storage,
    UnreadableError,
    is_between_renames,
    is_url,
    local_folder,
    storage_of,
)

if TYPE_CHECKING:  # a process that reads rows does without: 0.05 s
    import pyarrow.compute as pc

OFFSET, LENGTH, ID = (f"documents.list.element.{name}" for name in ("offset", "length", "id"))

# Row groups of which the decoded footers are kept (4.2 kB each, measured), and the bytes of footers kept
# besides, from which the others are decoded again (2 µs a row group of the file).
_DECODED_ROW_GROUPS = 8192
_FOOTER_BYTES = 32 << 20
# A footer's length, for a read from its end: 700 bytes and 88 for each column of a row group, measured.
_FOOTER_BASE, _FOOTER_OF_COLUMN = 1024, 90
_OPENINGS = 5  # times that opening a local set is tried: another may be taking its place
_PAUSE_S = 0.02  # while there is none: two renames take less


@dataclass(frozen=True, eq=False)
class RowGroup:
    """The sequences of a row group, as read-only arrays.

    tokens: (rows, sequence_length) uint16 or uint32. loss_mask: bool, same shape, or None: all are
    trained on but padding. starts: (rows + 1,) int64; the pieces of row r are starts[r] to
    starts[r + 1] of offsets and lengths, uint32: each lies right of the one before it, from column 0,
    and is tokens [offset, offset + length) of its document. What is left of the row is padding.
    """

    tokens: np.ndarray
    starts: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    loss_mask: np.ndarray | None


class ShardSet:
    """A shard set: a local folder, or the URL of one.

    manifest: the set's Manifest. row_groups: int64 (groups,), rows of every row group in the order of
    the set. storage: where the bytes come from. Raises DataError naming the file where one is missing or
    is not what the manifest says, or where the set was replaced by another since it was opened.
    """

    def __init__(self, place: Place | Storage, whole: bool = True):
        """`whole`: a missing file of a local set is an error now, not when it is read."""
        self.storage = storage_of(place)
        for opening in range(1, _OPENINGS + 1):
            try:
                self._opened = self._file_of_manifest()
                self.manifest = Manifest.read(self.storage)
                if whole:
                    self._check_sizes()
                break
            except DataError:
                if opening == _OPENINGS or is_url(self.storage.place):
                    raise
                if is_between_renames(self.storage):
                    time.sleep(_PAUSE_S)
        groups = [self._rows_of_groups(file.rows) for file in self.manifest.files]
        self.row_groups = np.concatenate([np.zeros(0, np.int64), *groups])
        self._first_group = np.cumsum([0, *map(len, groups)])
        self._make_caches()

    @property
    def folder(self) -> Path:
        """Of a local set; raises ConfigError for a remote one."""
        return local_folder(self.storage)

    def read(self, group: int) -> RowGroup:
        """The row group's sequences; raises DataError naming file and row group if a byte changed."""
        masked = ["loss_mask"] if self.manifest.has_loss_mask else []
        table = self.table(group, ["tokens", OFFSET, LENGTH, *masked])
        pieces = _lists(table, "documents")
        structs = _values(pieces)
        return RowGroup(
            tokens=self._matrix(table, "tokens"),
            starts=_numbers(pieces.offsets).astype(np.int64),
            offsets=_numbers(structs.field("offset")),
            lengths=_numbers(structs.field("length")),
            loss_mask=self._matrix(table, "loss_mask") if masked else None,
        )

    def document_ids(self, group: int) -> list[list[str]]:
        """For each row of the row group, the ids of the documents in it, in order."""
        pieces = _lists(self.table(group, [ID]), "documents")
        ids = _values(pieces).field("id").to_pylist()
        ends = pieces.offsets.to_pylist()
        return [ids[begin:end] for begin, end in pairwise(ends)]

    def table(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Columns of the row group, every byte of it checked."""
        file, number = self._locate(group)
        name = self.manifest.files[file].name
        with self._naming(f"{self.storage.address(name)}: row group {number}"):
            groups = self._groups(file)
            return groups.table(number, self.storage.read(name, *groups.span(number)), columns)

    def documents(self) -> pa.Table:
        """documents.parquet, sorted by id; raises DataError where it was changed."""
        return pq.read_table(pa.BufferReader(self.content(DOCUMENTS_FILE)))

    def content(self, name: str) -> bytes:
        """A file that holds no rows, whole, its hash compared; raises DataError where it is missing or changed."""
        with self._naming(str(self.storage.address(name))):
            content = self.storage.content(name)
            if hashlib.sha256(content).hexdigest() != self.manifest.hashes[name]:
                raise UnreadableError("not the file that the manifest names")
        return content

    def checked(self, name: str) -> Path:
        """The path of a local set's file, its hash compared; raises DataError where it is missing or changed.

        For files that hold no rows: those are checked as they are read.
        """
        path = self.folder / name
        if not path.is_file() or sha256_file(path) != self.manifest.hashes[name]:
            raise DataError(f"{path}: missing or not the file that the manifest names; {RESTORE}")
        return path

    def checked_tokenizer(self) -> Path:
        """The folder of a local set's tokenizer, the hashes of its files compared."""
        for name in self.manifest.tokenizer:
            self.checked(f"{TOKENIZER_FOLDER}/{name}")
        return self.folder / TOKENIZER_FOLDER

    def listed(self, condition: "pc.Expression", columns: Sequence[str]) -> pa.Table:
        """The lines of documents.parquet that meet the condition.

        Of a local set only the row groups that can hold them are read, and no hash is compared. Raises
        DataError where the file is missing or damaged.
        """
        if is_url(self.storage.place):
            return self.documents().filter(condition).select(list(columns))
        path = self.folder / DOCUMENTS_FILE
        try:
            return pq.read_table(path, columns=list(columns), filters=condition)
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{path}: not readable ({reason}); {RESTORE}") from error

    def place(self, group: int) -> tuple[Place, int]:
        """The file that holds the row group, and its number there."""
        file, number = self._locate(group)
        return self.storage.address(self.manifest.files[file].name), number

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _CACHES}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._make_caches()

    def _locate(self, group: int) -> tuple[int, int]:
        """The file's number in the set and the row group's number in the file."""
        if not 0 <= group < len(self.row_groups):
            raise IndexError(f"row group {group} of {len(self.row_groups)}")
        file = int(np.searchsorted(self._first_group, group, side="right")) - 1
        return file, group - int(self._first_group[file])

    def _rows_of_groups(self, rows: int) -> np.ndarray:
        """Rows of each row group of a file with so many rows; its epochs take turns, group by group."""
        size, epochs = self.manifest.row_group, self.manifest.epochs
        begins = np.arange(0, rows // epochs, size)
        return np.repeat(np.minimum(size, rows // epochs - begins), epochs)

    def _check_sizes(self) -> None:
        # A request for each file of a remote set would take long; a missing one shows when it is read.
        if is_url(self.storage.place):
            return
        for file in self.manifest.files:
            with self._naming(str(self.storage.address(file.name))):
                size = self.storage.size(file.name)
                if size != file.bytes:
                    raise UnreadableError(f"has {size} bytes, the manifest says {file.bytes}")

    def _make_caches(self) -> None:
        """Caches without a lock that another thread could hold when the process forks."""
        files = max(1, len(self.manifest.files))
        groups = max(1, len(self.row_groups) // files)
        kept = max(1, _FOOTER_BYTES // self._footer_guess(groups))
        self._footer = lru_cache(kept)(self._read_footer)
        self._groups = lru_cache(max(1, _DECODED_ROW_GROUPS // groups))(self._read_groups)

    def _footer_guess(self, groups: int) -> int:
        columns = len(self.manifest.encodings())
        return _FOOTER_BASE + _FOOTER_OF_COLUMN * columns * groups

    def _read_footer(self, number: int) -> bytes:
        file = self.manifest.files[number]
        groups = int(self._first_group[number + 1] - self._first_group[number])
        footer = read_footer(self.storage, file.name, file.bytes, self._footer_guess(groups))
        if footer_hash(footer) != file.footer_sha256:
            raise UnreadableError("its footer is not the one the manifest names")
        return footer

    def _read_groups(self, number: int) -> RowGroups:
        return RowGroups(self._footer(number), self.manifest.files[number].bytes)

    @contextmanager
    def _naming(self, where: str) -> Iterator[None]:
        """Errors as DataError of that place; of a file whose set was replaced it is this that is wrong."""
        try:
            yield
        except UnreadableError as error:
            if self._is_replaced(error):
                raise DataError(
                    f"{self.storage.place}: the set was replaced while it was read: start again"
                ) from error
            raise DataError(f"{where}: {error}") from error

    def _is_replaced(self, error: UnreadableError) -> bool:
        if error.advice != RESTORE:  # a disk or network that fails
            return False
        found = self._file_of_manifest()
        if found and self._opened and found != self._opened:
            return True  # maybe twice, the second time by its own content
        try:
            return Manifest.read(self.storage).hash != self.manifest.hash
        except DataError:
            return is_between_renames(self.storage)

    def _file_of_manifest(self) -> tuple[int, int] | None:
        """What tells a local set's manifest.json from another of the same content."""
        try:
            status = os.stat(f"{self.storage.place}/{MANIFEST}")
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _matrix(self, table: pa.Table, column: str) -> np.ndarray:
        values = _values(_lists(table, column))
        if pa.types.is_boolean(values.type):  # bits in Arrow: the only ones that are copied
            array = _numbers(values.cast(pa.uint8())).view(np.bool_)
        else:
            array = _numbers(values)
        return array.reshape(table.num_rows, self.manifest.sequence_length)


_CACHES = ("_footer", "_groups")


def _lists(table: pa.Table, column: str) -> pa.ListArray:
    chunks = table[column]
    return chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()


# Arrow's own flatten and to_numpy import its compute functions and pandas first: 0.15 s before the first
# batch of every process.
def _values(lists: pa.ListArray) -> pa.Array:
    first, last = lists.offsets[0].as_py(), lists.offsets[-1].as_py()
    return lists.values.slice(first, last - first)


def _numbers(values: pa.Array) -> np.ndarray:
    return np.from_dlpack(values)
