"""The documents that wait to be packed, and where the parts of them went that are in rows already."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data_prep.shards.encoded import EncodedBatch, no_documents, ranges
from data_prep.shards.packing.pieces import Pieces
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

    def followed(self, batch: EncodedBatch) -> Window:
        """With new documents after its own; `batch` holds both."""
        done = np.zeros(len(batch), np.int64)
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
            ranges(self.batch.tokens, begins, ends),
            np.append(0, np.cumsum(ends - begins)),
            None if mask is None else ranges(mask, begins, ends),
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
        return document_list(
            about, self.done[documents], rows, row[np.argsort(document, kind="stable")]
        )


def document_list(
    about: pa.Table, tokens: np.ndarray, row_counts: np.ndarray, rows: np.ndarray
) -> pa.Table:
    """Rows of documents.parquet: what is known of the documents, their tokens, and the rows they are in.

    tokens, row_counts: (documents,); rows: those of all documents, one document after the other.
    """
    columns = {name: about[name] for name in about.column_names} | {
        "tokens": pa.array(tokens),
        "rows": pa.ListArray.from_arrays(
            pa.array(np.append(0, np.cumsum(row_counts)).astype(np.int32)),
            pa.array(rows),
            type=DOCUMENTS.field("rows").type,
        ),
    }
    return pa.table([columns[name] for name in DOCUMENTS.names], schema=DOCUMENTS)


def empty_window() -> Window:
    nothing = np.zeros(0, np.int64)
    return Window(no_documents(), nothing, nothing, nothing)
