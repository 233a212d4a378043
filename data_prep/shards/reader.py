"""Reads shard sets: tokens as NumPy views of Arrow buffers, never through Python lists.

Opening a set reads its manifest and the end of every file; reading a row group reads its bytes once,
checks them and decodes them. Nothing is kept between reads, so a set can be pickled, shared by threads
and used by any number of processes.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import DataError
from data_prep.files import sha256_file
from data_prep.shards.manifest import DOCUMENTS_FILE, Manifest, ShardFile
from data_prep.shards.parquet_file import Footer, read_row_group

OFFSET, LENGTH, ID = (f"documents.list.element.{name}" for name in ("offset", "length", "id"))
ADVICE = (
    "the file was changed after it was written: restore it from a copy, or remove the set's folder and "
    "the file's unit below pack/ and run the stage pack again"
)


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
    """A shard set on disk.

    manifest: the set's Manifest. row_groups: int64 (groups,), rows of every row group in the order of
    the set. Raises DataError naming the file where one is missing or is not what the manifest says.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.manifest = Manifest.read(self.folder)
        for file in self.manifest.files:
            self._footer(file)
        size = self.manifest.row_group
        groups = [
            [min(size, file.rows - begin) for begin in range(0, file.rows, size)]
            for file in self.manifest.files
        ]
        self.row_groups = np.array([rows for rows_of in groups for rows in rows_of], np.int64)
        self._first_group = np.cumsum([0, *(len(rows_of) for rows_of in groups)])

    def read(self, group: int) -> RowGroup:
        """The row group's sequences; raises DataError naming file and row group if a byte changed."""
        masked = ["loss_mask"] if self.manifest.has_loss_mask else []
        table = self._table(group, ["tokens", OFFSET, LENGTH, *masked])
        pieces = _lists(table, "documents")
        structs = pieces.flatten()
        return RowGroup(
            tokens=self._matrix(table, "tokens"),
            starts=pieces.offsets.to_numpy().astype(np.int64),
            offsets=structs.field("offset").to_numpy(),
            lengths=structs.field("length").to_numpy(),
            loss_mask=self._matrix(table, "loss_mask") if masked else None,
        )

    def document_ids(self, group: int) -> list[list[str]]:
        """For each row of the row group, the ids of the documents in it, in order."""
        pieces = _lists(self._table(group, [ID]), "documents")
        ids = pieces.flatten().field("id").to_pylist()
        ends = pieces.offsets.to_pylist()
        return [ids[begin:end] for begin, end in pairwise(ends)]

    def documents(self) -> pa.Table:
        """documents.parquet, sorted by id; raises DataError where it was changed."""
        path = self.folder / DOCUMENTS_FILE
        if not path.is_file() or sha256_file(path) != self.manifest.documents_sha256:
            raise DataError(f"{path}: missing or not the file that the manifest names; {ADVICE}")
        return pq.read_table(path)

    def place(self, group: int) -> tuple[Path, int]:
        """The file that holds the row group, and its number there."""
        file = int(np.searchsorted(self._first_group, group, side="right")) - 1
        name = self.manifest.files[file].name
        return self.folder / name, group - int(self._first_group[file])

    def _table(self, group: int, columns: list[str]) -> pa.Table:
        if not 0 <= group < len(self.row_groups):
            raise IndexError(f"row group {group} of {len(self.row_groups)}")
        file = int(np.searchsorted(self._first_group, group, side="right")) - 1
        footer = self._footer(self.manifest.files[file])
        return read_row_group(footer, group - int(self._first_group[file]), columns)

    def _footer(self, file: ShardFile) -> Footer:
        footer = Footer(self.folder / file.name, ADVICE)
        if footer.file_bytes != file.bytes:
            raise DataError(
                f"{footer.path}: has {footer.file_bytes} bytes, the manifest says {file.bytes}; {ADVICE}"
            )
        if footer.hash != file.footer_sha256:
            raise DataError(
                f"{footer.path}: its footer is not the one the manifest names; {ADVICE}"
            )
        return footer

    def _matrix(self, table: pa.Table, column: str) -> np.ndarray:
        values = _lists(table, column).flatten()
        # Bools are bits in Arrow, so only they are copied.
        array = values.to_numpy(zero_copy_only=not pa.types.is_boolean(values.type))
        return array.reshape(table.num_rows, self.manifest.sequence_length)


def _lists(table: pa.Table, column: str) -> pa.ListArray:
    chunks = table[column]
    return chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()
