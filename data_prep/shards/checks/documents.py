"""What must hold of documents.parquet by itself, and which documents a set's rows hold otherwise than it says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from data_prep.shards.checks.rows import has_texts
from data_prep.shards.manifest import Manifest


@dataclass
class Listed:
    """A stretch of documents.parquet as arrays; rows flat, document d's are rows[starts[d]:starts[d + 1]]."""

    ids: list[str]
    tokens: np.ndarray
    rows: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> Listed:
        rows = batch["rows"]
        starts = rows.offsets.to_numpy().astype(np.int64)
        return cls(
            batch["id"].to_pylist(),
            batch["tokens"].to_numpy(),
            rows.flatten().to_numpy(),
            starts - starts[0],
        )

    def document(self) -> np.ndarray:
        """int64: the document of each of `rows`."""
        return np.repeat(np.arange(len(self.ids)), np.diff(self.starts))


def list_problem(
    listed: Listed, before: str | None, manifest: Manifest, group_ends: np.ndarray
) -> str | None:
    """The first thing that is wrong in a stretch, which follows the id `before`.

    group_ends: int64, the set's rows up to and with each row group.
    """
    ids, rows = listed.ids, int(group_ends[-1])
    for one, other in zip([before, *ids[:-1]], ids, strict=True):
        if one is not None and one.encode() >= other.encode():
            return (
                f"document {other} is listed twice"
                if one == other
                else (f"not sorted by id: {other} follows {one}")
            )
    document = listed.document()
    outside = (listed.rows < 0) | (listed.rows >= rows)
    if outside.any():
        place = np.argmax(outside)
        return f"document {ids[document[place]]}: in row {listed.rows[place]}, the set has {rows}"
    back = (np.diff(listed.rows) <= 0) & (np.diff(document) == 0)
    if back.any():
        return f"document {ids[document[np.argmax(back)]]}: its rows are not in order"
    if manifest.policy == "per_document":
        return _epochs_problem(listed, manifest, group_ends)
    if (np.diff(listed.starts) < 1).any():
        return f"document {ids[np.argmax(np.diff(listed.starts) < 1)]}: in no row"
    return None


def _epochs_problem(listed: Listed, manifest: Manifest, group_ends: np.ndarray) -> str | None:
    wrong = np.diff(listed.starts) != manifest.epochs
    if wrong.any():
        place = np.argmax(wrong)
        found = np.diff(listed.starts)[place]
        return (
            f"document {listed.ids[place]}: in {found} rows, expected one in each of "
            f"{manifest.epochs} epochs"
        )
    epochs = np.searchsorted(group_ends, listed.rows, side="right") % manifest.epochs
    epochs = np.sort(epochs.reshape(-1, manifest.epochs), axis=1)
    wrong = (epochs != np.arange(manifest.epochs)).any(axis=1)
    if wrong.any():
        place = np.argmax(wrong)
        found = ", ".join(map(str, epochs[place]))
        return (
            f"document {listed.ids[place]}: its rows are of the epochs {found}, expected each once"
        )
    return None


class Piece(NamedTuple):
    """Tokens [offset, end) of a document, in a row of the set."""

    offset: int
    end: int
    row: int
    ended: bool  # whether its last token is the end token


@dataclass
class Held:
    """A document as the list has it (tokens None: not at all), and as the rows do."""

    tokens: int | None = None
    rows: list[int] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)


def differences(documents: Mapping[str, Held], manifest: Manifest) -> Iterator[str]:
    """Those documents of which list and rows do not say the same, a line for each, by id."""
    for name in sorted(documents):
        problem = _difference(documents[name], manifest)
        if problem:
            yield f"document {name}: {problem}"


def _difference(held: Held, manifest: Manifest) -> str | None:
    pieces = sorted(held.pieces)
    if held.tokens is None:
        return f"it is in row {pieces[0].row}, but not listed"
    if not pieces:
        return "it is listed, but in no row"
    rows = sorted(piece.row for piece in pieces)
    if rows != held.rows:
        return f"it is listed for the rows {_some(held.rows)}, and found in {_some(rows)}"
    if manifest.policy == "per_document":
        return None
    expected = 0
    for piece in pieces:
        if piece.offset != expected:
            fault = "lost" if piece.offset > expected else "doubled"
            return f"tokens from {min(piece.offset, expected)} on are {fault}"
        expected = piece.end
    if expected != held.tokens:
        return f"{expected} tokens are in rows, {held.tokens} are listed"
    return _end_problem(pieces, manifest) if has_texts(manifest) else None


def _end_problem(pieces: list[Piece], manifest: Manifest) -> str | None:
    *inner, last = pieces
    if not last.ended:
        return f"it does not end with the end token {manifest.end_id}"
    for piece in inner:
        if piece.ended:
            return f"row {piece.row} ends with the end token where the document is cut"
    return None


def _some(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:8])) + (", …" if len(rows) > 8 else "")
