"""The documents that wait to be packed, and where the parts of them went that are in rows already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data_prep.shards.encoded import ABOUT, EncodedBatch
from data_prep.shards.packing import Pieces
from data_prep.shards.schema import DOCUMENTS


@dataclass(frozen=True, eq=False)
class Window:
    """Documents, each with the tokens of it that are in no row yet.

    done: int64 (documents,), how many of each one's tokens are in rows. document, row: int64 (pieces,),
    a document and a row that holds a part of it; the rows of each document are in order.
    """

    batch: EncodedBatch
    done: np.ndarray
    document: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.batch)

    def extended(self, batches: Sequence[EncodedBatch]) -> Window:
        """With these documents after its own."""
        parts = [part for part in (self.batch, *batches) if len(part)]
        masks = [part.loss_mask for part in parts if part.loss_mask is not None]
        lengths = np.concatenate([part.lengths for part in parts])
        batch = EncodedBatch(
            pa.concat_tables([part.about for part in parts]),
            np.concatenate([part.tokens for part in parts]),
            np.append(0, np.cumsum(lengths)),
            np.concatenate(masks) if masks else None,
        )
        done = np.zeros(len(lengths), np.int64)
        done[: len(self.done)] = self.done
        return Window(batch, done, self.document, self.row)

    def packed(self, pieces: Pieces, first_row: int) -> Window:
        """After `pieces` of it have become the rows from `first_row` on; `batch` is as it was."""
        taken = np.bincount(pieces.document, pieces.length, len(self)).astype(np.int64)
        return Window(
            self.batch,
            self.done + taken,
            np.concatenate([self.document, pieces.document]),
            np.concatenate([self.row, first_row + pieces.row()]),
        )

    def kept(self, documents: np.ndarray, before: Window) -> Window:
        """Of a window that was packed, the documents (sorted, int64) that have tokens left.

        `before` is the window as it was, which says how many of the tokens at hand are in rows now.
        """
        begins = self.batch.starts[documents] + (self.done - before.done)[documents]
        ends = self.batch.starts[documents + 1]
        mask = self.batch.loss_mask
        batch = EncodedBatch(
            self.batch.about.take(pa.array(documents)),
            _ranges(self.batch.tokens, begins, ends),
            np.append(0, np.cumsum(ends - begins)),
            None if mask is None else _ranges(mask, begins, ends),
        )
        theirs = np.isin(self.document, documents)
        return Window(
            batch,
            self.done[documents],
            np.searchsorted(documents, self.document[theirs]),
            self.row[theirs],
        )

    def listed(self, documents: np.ndarray) -> pa.Table:
        """Rows of documents.parquet for documents (sorted, int64) all of whose tokens are in rows."""
        theirs = np.isin(self.document, documents)
        document, row = self.document[theirs], self.row[theirs]
        rows = np.bincount(document, minlength=len(self))[documents]
        about = self.batch.about.take(pa.array(documents))
        columns = {name: about[name] for name in ABOUT.names} | {
            "tokens": pa.array(self.done[documents]),
            "rows": pa.ListArray.from_arrays(
                pa.array(np.append(0, np.cumsum(rows)).astype(np.int32)),
                pa.array(row[np.argsort(document, kind="stable")]),
                type=DOCUMENTS.field("rows").type,
            ),
        }
        return pa.table([columns[name] for name in DOCUMENTS.names], schema=DOCUMENTS)


def empty_window() -> Window:
    nothing = np.zeros(0, np.int64)
    batch = EncodedBatch(ABOUT.empty_table(), np.zeros(0, np.uint16), np.zeros(1, np.int64))
    return Window(batch, nothing, nothing, nothing)


def _ranges(values: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    parts = [values[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
    return np.concatenate([values[:0], *parts])
