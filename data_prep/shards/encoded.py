"""Encoded documents, one by one or as the columns in which shards are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Self

import numpy as np
import pyarrow as pa

from data_prep.errors import DataError
from data_prep.shards.schema import DOCUMENTS, ShardFormat

METADATA = ("pmid", "pmcid", "doi", "licence", "year", "journal")
# What documents.parquet says of a document before it is packed.
ABOUT = pa.schema([column for column in DOCUMENTS if column.name not in ("tokens", "rows")])
_TOGETHER = 1024  # documents; what numpy and Arrow cost for each call is then little


@dataclass(slots=True, eq=False)
class EncodedDocument:
    """A document as token ids, with what documents.parquet says of it."""

    id: str
    tokens: np.ndarray  # 1-D, unsigned or signed integers
    source: str
    bytes: int  # of its text in UTF-8
    metadata: Mapping[str, Any] = field(
        default_factory=dict
    )  # keys of METADATA; others are ignored
    loss_mask: np.ndarray | None = None  # bool, as long as tokens


@dataclass(frozen=True, eq=False)
class EncodedBatch:
    """Documents as columns: document k has the tokens [starts[k], starts[k + 1]).

    tokens: integers, flat; starts: int64 (documents + 1,), from 0; loss_mask: bool, as long as tokens.
    """

    about: pa.Table  # ABOUT
    tokens: np.ndarray
    starts: np.ndarray
    loss_mask: np.ndarray | None = None

    @classmethod
    def of(cls, documents: Sequence[EncodedDocument]) -> Self:
        """The documents together. Raises DataError where a loss mask and its tokens differ in length."""
        columns: dict[str, Any] = {
            "id": [document.id for document in documents],
            "source": [document.source for document in documents],
            "bytes": [document.bytes for document in documents],
        }
        for name in METADATA:
            columns[name] = [document.metadata.get(name) for document in documents]
        masks = [document.loss_mask for document in documents if document.loss_mask is not None]
        for document in documents:
            _check_mask(document, expected=bool(masks))
        return cls(
            pa.table(columns, schema=ABOUT),
            np.concatenate([document.tokens for document in documents]),
            np.cumsum([0, *(len(document.tokens) for document in documents)]),
            np.concatenate(masks) if masks else None,
        )

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64 (documents,): tokens of each."""
        return np.diff(self.starts)

    def slice(self, begin: int, end: int) -> EncodedBatch:
        """Documents `begin` to `end`, without a copy of their tokens."""
        first, last = int(self.starts[begin]), int(self.starts[end])
        return EncodedBatch(
            self.about.slice(begin, end - begin),
            self.tokens[first:last],
            self.starts[begin : end + 1] - first,
            None if self.loss_mask is None else self.loss_mask[first:last],
        )

    def take(self, documents: np.ndarray) -> EncodedBatch:
        """These documents (int64, places in the batch) in this order."""
        begins, ends = self.starts[documents], self.starts[documents + 1]
        mask = self.loss_mask
        return EncodedBatch(
            self.about.take(pa.array(documents)),
            ranges(self.tokens, begins, ends),
            np.append(0, np.cumsum(ends - begins)),
            None if mask is None else ranges(mask, begins, ends),
        )

    def check(self, form: ShardFormat) -> None:
        """Raise DataError naming the document where one does not fit the form."""
        if (self.loss_mask is not None) != form.has_loss_mask and len(self):
            found = "a" if self.loss_mask is not None else "no"
            raise DataError(f"document {self._id(0)}: {found} loss mask, and its shard set differs")
        empty = np.flatnonzero(self.lengths == 0)
        if len(empty):
            raise DataError(
                f"document {self._id(empty[0])}: no tokens; leave it out or give it an end token"
            )
        if len(self.tokens) and not (
            self.tokens.min() >= 0 and self.tokens.max() < form.vocabulary_size
        ):
            wrong = np.flatnonzero((self.tokens < 0) | (self.tokens >= form.vocabulary_size))[0]
            document = np.searchsorted(self.starts, wrong, side="right") - 1
            raise DataError(
                f"document {self._id(document)}: token id {int(self.tokens[wrong])}, but the vocabulary "
                f"has {form.vocabulary_size} ids; encode it with the tokenizer of its shard set"
            )

    def _id(self, row: int) -> str:
        return str(self.about["id"][int(row)].as_py())


def joined(batches: Sequence[EncodedBatch]) -> EncodedBatch:
    """The batches, one or more, as one."""
    if len(batches) == 1:
        return batches[0]
    parts = [part for part in batches if len(part)] or batches[:1]
    masks = [part.loss_mask for part in parts if part.loss_mask is not None]
    lengths = np.concatenate([part.lengths for part in parts])
    return EncodedBatch(
        pa.concat_tables([part.about for part in parts]),
        np.concatenate([part.tokens for part in parts]),
        np.append(0, np.cumsum(lengths)),
        np.concatenate(masks) if masks else None,
    )


def ranges(values: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """values[begins[0]:ends[0]], values[begins[1]:ends[1]] … one after the other."""
    parts = [values[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
    return np.concatenate([values[:0], *parts])


def no_documents() -> EncodedBatch:
    return EncodedBatch(ABOUT.empty_table(), np.zeros(0, np.uint16), np.zeros(1, np.int64))


def in_batches(documents: Iterable[EncodedDocument]) -> Iterator[EncodedBatch]:
    """Documents that come one by one, some at a time."""
    stream = iter(documents)
    while part := list(islice(stream, _TOGETHER)):
        yield EncodedBatch.of(part)


def _check_mask(document: EncodedDocument, expected: bool) -> None:
    mask = document.loss_mask
    if (mask is not None) != expected:
        raise DataError(f"document {document.id}: no loss mask, and others beside it have one")
    if mask is not None and len(mask) != len(document.tokens):
        raise DataError(
            f"document {document.id}: {len(mask)} loss mask values for {len(document.tokens)} tokens"
        )
