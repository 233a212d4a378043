"""The self-test at every start: does attention stay inside documents on this very model?

Libraries break this silently (a mask passed along, a cache left on), and the loss falls all the same.
"""

from collections.abc import Callable

import torch

from data_prep.errors import DataError

PIECE_TOKENS = 4  # two documents of four tokens show a leak as well as long ones do
# Rounding between two runs on the same shapes is zero or nearly so; a leak moved logits by 7e-2
# (GPT-2) and 2e-1 (LLaMA) where it was measured.
TOLERANCE = 1e-3


def check_isolation(
    forward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    attention: str,
    vocabulary_size: int,
    device: torch.device,
    rows: int = 1,
) -> float:
    """Change document 1 and see whether document 2's logits move; returns by how much.

    `forward` takes tokens and position_ids (rows, 8) and gives logits (rows, 8, V); `rows` is that of
    the micro-batches to come, for what holds for one row need not hold for two. Every rank must call
    this at once. Raises DataError where the model does not do what `attention` declares.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocabulary_size, (rows, 2 * PIECE_TOKENS), generator=generator)
    changed = tokens.clone()
    changed[:, :PIECE_TOKENS] = (changed[:, :PIECE_TOKENS] + 1) % vocabulary_size
    positions = torch.arange(2 * PIECE_TOKENS)
    if attention == "document":
        positions = positions % PIECE_TOKENS
    positions = positions.expand(rows, -1).to(device)
    with torch.no_grad():
        before = forward(tokens.to(device), positions).float()
        after = forward(changed.to(device), positions).float()
    moved = (before - after).abs()[:, PIECE_TOKENS:].max().item()
    if attention == "document" and moved > TOLERANCE:
        raise DataError(
            f"data.attention: document is declared, but changing one document moves the next one's "
            f"logits by {moved:.1e}; this model class or attention implementation does not isolate "
            "packed documents: choose another model.implementation (auto, sdpa, eager), or "
            "attention: sequence"
        )
    if attention == "sequence" and moved == 0.0:
        raise DataError(
            "data.attention: sequence is declared, but no attention crosses document borders in this "
            "model; declare document"
        )
    return moved
