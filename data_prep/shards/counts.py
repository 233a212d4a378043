"""What is counted of a shard while it is written; a set's manifest holds the sums."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.shards.schema import ShardFormat


@dataclass
class ShardCounts:
    """Whole numbers that add up over shards.

    `tokens` are those in rows, padding left out; `document_tokens` those of the documents: the same but
    for per_document, which takes a window in each epoch. `cuts` are seams inside documents; for
    per_document, rows with less than their whole document. `cut_documents` are those that do not stand
    whole in one row. `trained_tokens` are those in rows whose loss mask is True, all where there is no
    mask. `too_short` documents were left out; they are in no other count.
    """

    documents: int = 0
    rows: int = 0
    tokens: int = 0
    padding: int = 0
    cuts: int = 0
    trained_tokens: int = 0
    bytes: int = 0
    document_tokens: int = 0
    cut_documents: int = 0
    too_short: int = 0

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> Self:
        """From a manifest's counts, or a unit's that has others beside them."""
        return cls(**{field.name: counts[field.name] for field in fields(cls)})

    def as_json(self) -> dict[str, int]:
        return asdict(self)

    def add(self, other: Self) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def add_rows(self, rows: pa.Table, form: ShardFormat) -> None:
        """Count packed rows."""
        tokens = _sum(pc.struct_field(pc.list_flatten(rows["documents"]), "length"))
        masked = form.has_loss_mask
        self.rows += rows.num_rows
        self.tokens += tokens
        self.padding += rows.num_rows * form.sequence_length - tokens
        self.trained_tokens += _sum(pc.list_flatten(rows["loss_mask"])) if masked else tokens

    def add_documents(self, listed: pa.Table, form: ShardFormat) -> None:
        """Count documents, given as rows of documents.parquet."""
        rows = pc.list_value_length(listed["rows"])
        windows = form.policy == "per_document"
        cut = pc.greater(listed["tokens"], form.sequence_length) if windows else pc.greater(rows, 1)
        self.documents += listed.num_rows
        self.bytes += _sum(listed["bytes"])
        self.document_tokens += _sum(listed["tokens"])
        self.cut_documents += _sum(cut)
        self.cuts += _sum(cut) * form.epochs if windows else _sum(rows) - listed.num_rows

    @property
    def fill(self) -> float:
        """Share of the places in rows that hold tokens."""
        places = self.tokens + self.padding
        return self.tokens / places if places else 0.0

    @property
    def cut_share(self) -> float:
        """Share of the documents that do not stand whole in one row."""
        return self.cut_documents / self.documents if self.documents else 0.0

    def summary(self) -> str:
        """How well the documents are packed, in a line."""
        short = f", {self.too_short:,} too short left out" if self.too_short else ""
        return (
            f"{self.fill:.3%} filled, {self.cuts:,} cuts in {self.cut_share:.2%} of "
            f"{self.documents:,} documents{short}"
        )


def _sum(values: pa.ChunkedArray) -> int:
    return pc.sum(values).as_py() or 0
