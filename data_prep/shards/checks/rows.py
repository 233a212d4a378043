"""What must hold of every row group by itself: pure functions of what it holds and the set's manifest.

The lists are looked at before they become matrices, which readers take for granted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data_prep.shards.manifest import Manifest
from data_prep.shards.reader import RowGroup


@dataclass(frozen=True, eq=False)
class RowPieces:
    """The pieces of a row group, int64 (n,): row in the group, offset and end in the document, length,
    and the piece's first and last token."""

    row: np.ndarray
    offset: np.ndarray
    end: np.ndarray
    length: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @classmethod
    def of(cls, content: RowGroup) -> RowPieces:
        """Of a row group in which the pieces fit into their rows."""
        length = content.lengths.astype(np.int64)
        offset = content.offsets.astype(np.int64)
        pieces = np.diff(content.starts)
        row = np.repeat(np.arange(len(pieces)), pieces)
        before = np.cumsum(length) - length
        column = before - np.repeat(before[content.starts[:-1]], pieces)
        first, last = content.tokens[row, column], content.tokens[row, column + length - 1]
        return cls(
            row, offset, offset + length, length, first.astype(np.int64), last.astype(np.int64)
        )


def shape_problem(table: pa.Table, rows: int, manifest: Manifest) -> str | None:
    """Why what was read of a row group cannot be `rows` rows of pieces, where it cannot."""
    if table.num_rows != rows:
        return f"{table.num_rows} rows, expected {rows}"
    for name in ("tokens", "loss_mask")[: 1 + manifest.has_loss_mask]:
        lengths = np.diff(_lists(table, name).offsets.to_numpy())
        wrong = lengths != manifest.sequence_length
        if wrong.any():
            row = int(np.argmax(wrong))
            return f"row {row} of it: {name} has {lengths[row]} values, expected {manifest.sequence_length}"
    pieces = _lists(table, "documents")
    starts = pieces.offsets.to_numpy()
    if (np.diff(starts) < 1).any():
        return f"row {np.argmax(np.diff(starts) < 1)} of it holds no document"
    lengths = pieces.flatten().field("length").to_numpy().astype(np.int64)
    if (lengths < 1).any():
        row = int(np.searchsorted(starts, np.argmax(lengths < 1), side="right")) - 1
        return f"row {row} of it lists a piece of no tokens"
    filled = np.add.reduceat(lengths, starts[:-1])
    if (filled > manifest.sequence_length).any():
        row = int(np.argmax(filled > manifest.sequence_length))
        return f"row {row} of it lists {filled[row]} tokens, {manifest.sequence_length} fit"
    return None


def content_of(table: pa.Table, manifest: Manifest) -> RowGroup:
    """The arrays of a row group that has no shape_problem."""
    pieces = _lists(table, "documents")
    structs = pieces.flatten()
    shape = table.num_rows, manifest.sequence_length
    mask = (
        _lists(table, "loss_mask").flatten().to_numpy(zero_copy_only=False).reshape(shape)
        if manifest.has_loss_mask
        else None
    )
    return RowGroup(
        tokens=_lists(table, "tokens").flatten().to_numpy().reshape(shape),
        starts=pieces.offsets.to_numpy().astype(np.int64),
        offsets=structs.field("offset").to_numpy(),
        lengths=structs.field("length").to_numpy(),
        loss_mask=mask,
    )


def document_ids(table: pa.Table) -> list[str]:
    """The id of every piece of the row group."""
    return _lists(table, "documents").flatten().field("id").to_pylist()


def row_problems(content: RowGroup, pieces: RowPieces, manifest: Manifest) -> Iterator[str]:
    """What is wrong in a row group of the right shape."""
    tokens, highest = content.tokens, int(content.tokens.max())
    if highest >= manifest.vocabulary_size:
        row = np.argmax((tokens >= manifest.vocabulary_size).any(axis=1))
        yield f"row {row} of it: token id {highest} in a vocabulary of {manifest.vocabulary_size}"
    padding = np.arange(manifest.sequence_length) >= _filled(content)[:, None]
    wrong = ((tokens != manifest.pad_id) & padding).any(axis=1)
    if wrong.any():
        yield f"row {np.argmax(wrong)} of it: padding is not filled with the pad id {manifest.pad_id}"
    if content.loss_mask is not None:
        wrong = (content.loss_mask & padding).any(axis=1)
        if wrong.any():
            yield f"row {np.argmax(wrong)} of it: padding is marked as trained on"
    yield from _begin_problems(pieces, manifest)


def _begin_problems(pieces: RowPieces, manifest: Manifest) -> Iterator[str]:
    begins = pieces.offset == 0
    if manifest.begin_token:
        wrong = begins & (pieces.first != manifest.begin_id)
        if wrong.any():
            yield (
                f"row {pieces.row[np.argmax(wrong)]} of it: a document does not begin with the begin "
                f"token {manifest.begin_id}"
            )
    if has_texts(manifest) and manifest.begin_id is not None:
        wrong = ~begins & (pieces.first == manifest.begin_id)
        if manifest.begin_id == manifest.end_id:
            wrong &= pieces.length > 1  # of a document, an end token alone may be left
        if wrong.any():
            yield (
                f"row {pieces.row[np.argmax(wrong)]} of it: the rest of a cut document begins with the "
                f"begin token {manifest.begin_id}"
            )


def window_problems(
    pieces: RowPieces, manifest: Manifest, document_tokens: np.ndarray
) -> Iterator[str]:
    """What is wrong in a row group of the policy per_document: one window of one document a row.

    document_tokens: int64 (rows,), tokens of the document that is listed for each row, 0 for none.
    """
    if not np.array_equal(pieces.row, np.arange(len(document_tokens))):
        yield "a row holds pieces of several documents, which per_document never packs together"
        return
    expected = np.minimum(document_tokens, manifest.sequence_length)
    listed = document_tokens > 0
    wrong = listed & ((pieces.length != expected) | (pieces.end > document_tokens))
    if wrong.any():
        row = np.argmax(wrong)
        yield (
            f"row {row} of it holds tokens {pieces.offset[row]} to {pieces.end[row]} of a document of "
            f"{document_tokens[row]}; expected a window of {expected[row]}"
        )
    if has_texts(manifest):
        wrong = listed & ((pieces.last == manifest.end_id) != (pieces.end == document_tokens))
        if wrong.any():
            row = np.argmax(wrong)
            whole = pieces.end[row] == document_tokens[row]
            yield (
                f"row {row} of it: the document does not end with the end token {manifest.end_id}"
                if whole
                else f"row {row} of it: a window ends with the end token before its document does"
            )


def has_texts(manifest: Manifest) -> bool:
    """Whether special tokens stand at the ends of documents alone.

    Conversations, which have a loss mask, hold those that their chat template writes: end tokens after
    every turn, perhaps a line feed after the last.
    """
    return not manifest.has_loss_mask


def _filled(content: RowGroup) -> np.ndarray:
    return np.add.reduceat(content.lengths.astype(np.int64), content.starts[:-1])


def _lists(table: pa.Table, column: str) -> pa.ListArray:
    return table[column].combine_chunks()
