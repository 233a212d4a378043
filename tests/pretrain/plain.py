"""What the trainer has to equal: a loop of plain PyTorch, each document alone, no packing, no DeepSpeed."""

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from data_prep.shards.reader import ShardSet
from pretrain.data.batch import IGNORED
from pretrain.order.order import Order

Document = tuple[torch.Tensor, torch.Tensor]  # tokens (n,), labels (n,)


def plain_losses(
    model: Any, batches: Iterable[list[Document]], rates: Iterable[float]
) -> list[tuple[float, float]]:
    """(mean loss, gradient norm) of each step: AdamW, decay 0.1 of matrices, clipping at 1.

    The model may be in bf16: weights and sums of gradients are kept in fp32 all the same.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = [parameter.detach().float().clone().requires_grad_() for parameter in trained]
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for w in weights if w.ndim >= 2], "weight_decay": 0.1},
            {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
        ],
        lr=0.0,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    found = []
    for documents, rate in zip(batches, rates, strict=False):
        for parameter, weight in zip(trained, weights, strict=True):
            parameter.data.copy_(weight.data)
            weight.grad = torch.zeros_like(weight)
        count = sum(int((labels[1:] != IGNORED).sum()) for _, labels in documents)
        total = 0.0
        for tokens, labels in documents:
            if (labels[1:] == IGNORED).all():
                continue
            logits = model(tokens[None], use_cache=False).logits[0, :-1]
            loss = cross_entropy(logits.float(), labels[1:], reduction="sum")
            (loss / count).backward()
            total += loss.item()
            for parameter, weight in zip(trained, weights, strict=True):
                if parameter.grad is not None and weight.grad is not None:
                    weight.grad += parameter.grad.float()
                parameter.grad = None
        norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        found.append((total / count, norm.item()))
    return found


def rates(peak: float = 5e-3) -> Iterable[float]:
    """A learning rate that changes with every step."""
    return (peak * (1 + step % 3) / 3 for step in itertools.count())


def documents_of_step(order: Order, sets: list[ShardSet], step: int) -> list[np.ndarray]:
    """Every document piece of a step's batch, as its own array of tokens."""
    rows = order.batch(step)
    pieces = []
    for source, group, row in zip(rows.source, rows.group, rows.row, strict=True):
        content = sets[source].read(int(group))
        column = 0
        for piece in range(content.starts[row], content.starts[row + 1]):
            length = int(content.lengths[piece])
            pieces.append(content.tokens[row, column : column + length].astype(np.int64))
            column += length
    return pieces
