"""Packed rows to the tensors a model trains on.

Attention stays inside a document by position ids alone: transformers (masking_utils, checked with 5.23)
takes every place where position_ids does not grow by exactly one for the start of another sequence,
provided that no attention mask is given and no cache used. Padding therefore keeps position 0 throughout
and never continues a document's count; each padding token is a sequence to itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from data_prep.errors import DataError

# The label that torch's cross entropy, and so every transformers model, leaves out of the loss.
IGNORED = -100

Attention = Literal["document", "sequence"]
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Row:
    """One packed sequence: `tokens` (L,), the `lengths` of its document pieces in order, and which tokens
    are trained on, (L,) bool, or None for all. What the pieces leave of the row is padding.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    loss_mask: np.ndarray | None = None


def assemble(rows: Sequence[Row], attention: Attention) -> Tensors:
    """Give `tokens`, `labels` and `position_ids`, each (rows, L) int64.

    Labels stand unshifted, as transformers expects: place t is predicted from t - 1. They are -100 on
    padding, on tokens the loss mask excludes and on the first token of each document piece, which has
    nothing to be predicted from. Position ids restart at each piece and are 0 on padding (attention
    "document"), or count through the whole row ("sequence"). Raises DataError for pieces longer than
    their row.
    """
    tokens = np.stack([row.tokens for row in rows]).astype(np.int64)
    labels = tokens.copy()
    position_ids = np.zeros_like(tokens)
    for label, position, row in zip(labels, position_ids, rows, strict=True):
        stops = np.cumsum(row.lengths, dtype=np.int64)
        end = int(stops[-1]) if len(stops) else 0
        if end > len(label):
            raise DataError(
                f"a row of {len(label)} tokens lists documents of {end} tokens in all; run `verify` on "
                "its shard set and rebuild the shard"
            )
        starts = stops - row.lengths
        position[:end] = np.arange(end) - np.repeat(starts, row.lengths)
        label[starts] = IGNORED
        label[end:] = IGNORED
        if row.loss_mask is not None:
            label[~row.loss_mask] = IGNORED
    if attention == "sequence":
        position_ids[:] = np.arange(tokens.shape[1])
    return {
        "tokens": torch.from_numpy(tokens),
        "labels": torch.from_numpy(labels),
        "position_ids": torch.from_numpy(position_ids),
    }


def filler(count: int, sequence_length: int, attention: Attention) -> Tensors:
    """Give `count` rows that train nothing, shaped and positioned as `assemble` does padding."""
    empty = Row(np.zeros(sequence_length, np.int64), np.zeros(0, np.int64))
    return assemble([empty] * count, attention)


def micro_batches(
    rows: Sequence[Row], count: int, size: int, sequence_length: int, attention: Attention
) -> Iterator[Tensors]:
    """Give `count` micro-batches of `size` rows each: `rows` in order, then filler."""
    for first in range(0, count * size, size):
        own = rows[first : first + size]
        parts = [assemble(own, attention)] if own else []
        if len(own) < size:
            parts.append(filler(size - len(own), sequence_length, attention))
        yield {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def trained_tokens(labels: torch.Tensor) -> int:
    """Count the tokens a loss is taken on: labels from place 1, since nothing predicts place 0."""
    return int((labels[:, 1:] != IGNORED).sum())
