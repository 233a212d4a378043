"""From encoded documents to packed rows, row group by row group: what the policies have in common."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from data_prep.shards.encoded import EncodedBatch


@dataclass(frozen=True)
class Packed:
    """Row groups to be written, and documents.parquet's rows of documents that are in rows now."""

    row_groups: list[pa.Table] = field(default_factory=list)
    documents: list[pa.Table] = field(default_factory=list)


class Packer(Protocol):
    """Puts documents into rows; what it gives depends on the documents, not on their batches."""

    def add(self, batch: EncodedBatch) -> Iterator[Packed]:
        """Take documents that fit the form."""

    def finish(self) -> Iterator[Packed]:
        """Pack what waits."""


class RowGroups:
    """Cuts tables of rows into row groups of a size; only the last is smaller."""

    def __init__(self, size: int):
        self._size = size
        self._waiting: list[pa.Table] = []

    def add(self, rows: pa.Table) -> list[pa.Table]:
        """The row groups that are full now."""
        self._waiting.append(rows)
        count = sum(table.num_rows for table in self._waiting)
        return self._cut(count - count % self._size)

    def finish(self) -> list[pa.Table]:
        """The row group of what is left, if anything is."""
        return self._cut(sum(table.num_rows for table in self._waiting))

    def _cut(self, ready: int) -> list[pa.Table]:
        if not ready:
            return []
        rows = pa.concat_tables(self._waiting)
        self._waiting = [rows.slice(ready)] if ready < len(rows) else []
        groups = [
            rows.slice(begin, min(self._size, ready - begin))
            for begin in range(0, ready, self._size)
        ]
        return [group.combine_chunks() for group in groups]
