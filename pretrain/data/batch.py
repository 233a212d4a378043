"""Packed rows to the tensors a model trains on.

Attention stays inside a document by position ids alone: transformers (masking_utils, checked with 5.23)
takes every place where position_ids does not grow by exactly one for the start of another sequence,
provided that no attention mask is given and no cache used. Padding therefore keeps position 0 throughout
and never continues a document's count; each padding token is a sequence to itself.
"""

from typing import Literal

import numpy as np
import torch

from pretrain.data.packed_rows import PackedRows

# The label that torch's cross entropy, and so every transformers model, leaves out of the loss.
IGNORED = -100

Attention = Literal["document", "sequence"]
Tensors = dict[str, torch.Tensor]


def assemble(rows: PackedRows, attention: Attention) -> Tensors:
    """Give `tokens`, `labels` and `position_ids`, each (rows, L) int64.

    Labels stand unshifted, as transformers expects: place t is predicted from t - 1. They are -100 on
    padding, on tokens the loss mask excludes and on the first token of each document piece, which has
    nothing to be predicted from. Position ids restart at each piece and are 0 on padding (attention
    "document"), or count through the whole row ("sequence").
    """
    within = _places_in_pieces(rows.pieces, rows.tokens.shape[1])
    ignored = within == 0
    if rows.loss_mask is not None:
        ignored |= ~rows.loss_mask
    # One array of NumPy's: it asks for huge pages, without which most of the time goes to page faults.
    tensors = np.empty((3, *rows.tokens.shape), np.int64)
    tokens, labels, position_ids = tensors
    tokens[...] = rows.tokens
    labels[...] = tokens
    np.copyto(labels, IGNORED, where=ignored)
    position_ids[...] = within if attention == "document" else np.arange(tokens.shape[1])
    names = ("tokens", "labels", "position_ids")
    return dict(zip(names, torch.from_numpy(tensors), strict=True))


def _places_in_pieces(pieces: np.ndarray, sequence_length: int) -> np.ndarray:
    """(rows, L): how many tokens of its piece stand before each token; 0 on padding."""
    # Narrow numbers: a batch of them fits the cache, which makes this four times as fast.
    narrow = np.min_scalar_type(sequence_length)
    ends = np.cumsum(pieces, axis=1, dtype=np.int64)
    end = pieces.sum(axis=1, dtype=np.int64)
    # padding is one more piece of each row, in which nothing is counted
    lengths = np.column_stack([pieces, sequence_length - end]).ravel()
    starts = np.column_stack([ends - pieces, end]).astype(narrow).ravel()
    counted = np.ones((len(pieces), pieces.shape[1] + 1), narrow)
    counted[:, -1] = 0
    shape = (len(pieces), sequence_length)
    within = np.arange(sequence_length, dtype=narrow) - np.repeat(starts, lengths).reshape(shape)
    within *= np.repeat(counted.ravel(), lengths).reshape(shape)
    return within


def micro_batches(tensors: Tensors, size: int) -> list[Tensors]:
    """The tensors `size` rows at a time, as views."""
    count = len(tensors["tokens"])
    return [
        {name: tensor[first : first + size] for name, tensor in tensors.items()}
        for first in range(0, count, size)
    ]


def trained_tokens(labels: torch.Tensor) -> int:
    """Count the tokens a loss is taken on: labels from place 1, since nothing predicts place 0."""
    return int(torch.count_nonzero(labels[:, 1:] != IGNORED))
