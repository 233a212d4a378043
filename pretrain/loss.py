"""The training loss: summed over trained tokens, to be divided by their number in the global batch."""

import torch
from torch.nn import functional

from pretrain.batch import IGNORED


def summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum of the cross entropies in nats, fp32 scalar.

    `logits` (B, L, V) of any float type; `labels` (B, L) unshifted: position t predicts label t + 1.
    A batch without a trained token gives 0 with a gradient of 0.
    """
    predicted = logits[:, :-1].reshape(-1, logits.shape[-1]).float()
    return functional.cross_entropy(
        predicted, labels[:, 1:].reshape(-1), ignore_index=IGNORED, reduction="sum"
    )
