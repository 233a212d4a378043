"""Writes encoded documents as shards: a Parquet file of packed rows, and one of where each document went.

A caller with encoded documents makes a whole shard set in one call (data_prep/shards/assemble.py):

    form = shard_format(load_encoder(tokenizer), sequence_length=2048, policy="best_fit",
                        row_group=256, begin_token=False, has_loss_mask=True)
    manifest = build_shard_set(folder, documents, form, window=4096, source="dialogues", split="train",
                               tokenizer=tokenizer, settings={...}, inputs={"input name": "hash"})

where `documents` is any iterable of EncodedDocument, read once. A `ShardWriter` writes one shard:

    with ShardWriter(folder / "train.parquet", folder / "train.documents.parquet", form, window) as shard:
        shard.add(EncodedDocument(id="pmid:1", tokens=ids, source="pubmed", bytes=812, metadata={...}))
    shard.counts

`tokens` is everything that shall stand in the shard, begin and end tokens included. `loss_mask`, needed
exactly where the form says so, has one bool a token: True where the token is predicted and trained on;
padding is always False. No documents, no files. Memory: one window of documents (at most WINDOW_TOKENS
tokens and one document more), a row group, and one table row for each document.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import DataError
from data_prep.shards.packing import Pieces, best_fit, concat, without_emptiest_row
from data_prep.shards.parquet_file import COMPRESSION, ParquetFileWriter
from data_prep.shards.rows import rows_table
from data_prep.shards.schema import DOCUMENTS, ShardFormat

WINDOW_TOKENS = 1 << 24  # 64 MB as four-byte ids
METADATA = ("pmid", "pmcid", "doi", "licence", "year", "journal")
POLICIES = {"best_fit": best_fit, "concat": concat}


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


@dataclass
class ShardCounts:
    """What is in a shard: `tokens` leaves padding out, `cuts` are seams inside documents.

    `trained_tokens` are those whose loss mask is True, all where there is no mask.
    """

    documents: int = 0
    rows: int = 0
    tokens: int = 0
    padding: int = 0
    cuts: int = 0
    trained_tokens: int = 0
    bytes: int = 0

    def as_json(self) -> dict[str, int]:
        return asdict(self)


@dataclass(slots=True, eq=False)
class _Waiting:
    """A document of which the tokens from `done` on are in no row yet."""

    document: EncodedDocument
    done: int = 0
    rows: list[int] = field(default_factory=list)

    @property
    def left(self) -> int:
        return len(self.document.tokens) - self.done


class ShardWriter:
    """Packs documents window by window into one shard; see the module's text."""

    def __init__(self, shard: Path, documents: Path, form: ShardFormat, window: int):
        self.counts = ShardCounts()
        self._shard, self._documents = shard, documents
        self._form, self._window = form, window
        self._waiting: list[_Waiting] = []
        self._waiting_tokens = 0
        self._rows: list[pa.Table] = []
        self._listed: list[pa.Table] = []
        self._file: ParquetFileWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is None:
            self._finish()

    def add(self, document: EncodedDocument) -> None:
        """Take a document; raises DataError, at the latest on exit, where it does not fit the form."""
        _check(document, self._form)
        self._waiting.append(_Waiting(document))
        self._waiting_tokens += len(document.tokens)
        if len(self._waiting) >= self._window or self._waiting_tokens >= WINDOW_TOKENS:
            self._pack(last=False)

    def _finish(self) -> None:
        self._pack(last=True)
        self._write_row_groups(last=True)
        if self._file is None:
            return
        self._file.close()
        documents = pa.concat_tables(self._listed).sort_by("id").combine_chunks()
        pq.write_table(documents, self._documents, **COMPRESSION)

    def _pack(self, last: bool) -> None:
        window = self._waiting
        if not window:
            return
        lengths = np.array([waiting.left for waiting in window])
        pieces = POLICIES[self._form.policy](lengths, self._form.sequence_length)
        held_back = np.zeros(0, np.int64)
        if not last:
            # best_fit may fill that row better with documents to come; concat goes on in it.
            pieces, held_back = without_emptiest_row(pieces, self._form.sequence_length)
        if pieces.rows:
            self._take_rows(window, pieces)
        self._waiting = [window[index] for index in held_back]
        self._waiting_tokens = sum(waiting.left for waiting in self._waiting)
        kept = set(held_back.tolist())
        self._list([waiting for index, waiting in enumerate(window) if index not in kept])
        self._write_row_groups(last=False)

    def _take_rows(self, window: list[_Waiting], pieces: Pieces) -> None:
        """Make the rows, and remember which are each document's and how much of it is done."""
        documents = [waiting.document for waiting in window]
        _check_ids(documents, self._form)
        masks = [document.loss_mask for document in documents] if self._form.has_loss_mask else None
        done = np.array([waiting.done for waiting in window])
        table = rows_table(
            self._form,
            [document.id for document in documents],
            [document.tokens for document in documents],
            masks,  # type: ignore[arg-type]  # _check saw that each has one
            done,
            pieces,
        )
        self._rows.append(table)
        rows = (self.counts.rows + pieces.row()).tolist()
        for index, row, length in zip(
            pieces.document.tolist(), rows, pieces.length.tolist(), strict=True
        ):
            window[index].done += length
            window[index].rows.append(row)
        filled = int(pieces.length.sum())
        self.counts.rows += pieces.rows
        self.counts.tokens += filled
        self.counts.padding += pieces.rows * self._form.sequence_length - filled

    def _list(self, finished: list[_Waiting]) -> None:
        documents = [waiting.document for waiting in finished]
        columns: dict[str, list[Any]] = {
            "id": [document.id for document in documents],
            "source": [document.source for document in documents],
            "bytes": [document.bytes for document in documents],
            "tokens": [len(document.tokens) for document in documents],
            "rows": [waiting.rows for waiting in finished],
        }
        for name in METADATA:
            columns[name] = [document.metadata.get(name) for document in documents]
        self._listed.append(pa.Table.from_pydict(columns, schema=DOCUMENTS))
        self.counts.documents += len(documents)
        self.counts.bytes += sum(columns["bytes"])
        self.counts.cuts += sum(len(rows) - 1 for rows in columns["rows"])
        self.counts.trained_tokens += sum(
            len(document.tokens) if document.loss_mask is None else int(document.loss_mask.sum())
            for document in documents
        )

    def _write_row_groups(self, last: bool) -> None:
        """Write the whole row groups there are, and at the end what is left."""
        size = self._form.row_group
        waiting = sum(table.num_rows for table in self._rows)
        ready = waiting if last else waiting - waiting % size
        if not ready:
            return
        rows = pa.concat_tables(self._rows)
        if self._file is None:
            self._file = ParquetFileWriter(
                self._shard, rows.schema, self._form.encodings(), self._form.file_metadata()
            )
        for begin in range(0, ready, size):
            group = rows.slice(begin, min(size, ready - begin))
            self._file.write(group.combine_chunks())
        self._rows = [rows.slice(ready)] if ready < waiting else []


def _check(document: EncodedDocument, form: ShardFormat) -> None:
    tokens, mask = document.tokens, document.loss_mask
    if not len(tokens):
        raise DataError(f"document {document.id}: no tokens; leave it out or give it an end token")
    if (mask is not None) != form.has_loss_mask:
        found = "a" if mask is not None else "no"
        raise DataError(f"document {document.id}: {found} loss mask, and its shard set differs")
    if mask is not None and len(mask) != len(tokens):
        raise DataError(
            f"document {document.id}: {len(mask)} loss mask values for {len(tokens)} tokens"
        )


def _check_ids(documents: Sequence[EncodedDocument], form: ShardFormat) -> None:
    tokens = np.concatenate([document.tokens for document in documents])
    if tokens.min() >= 0 and tokens.max() < form.vocabulary_size:
        return
    for document in documents:
        for wrong in (int(document.tokens.max()), int(document.tokens.min())):
            if not 0 <= wrong < form.vocabulary_size:
                raise DataError(
                    f"document {document.id}: token id {wrong}, but the vocabulary has "
                    f"{form.vocabulary_size} ids; encode it with the tokenizer of its shard set"
                )
