"""What a model says to a fixed row of tokens: taken while training, and compared with the export."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from data_prep.errors import DataError

PROBE_TOKENS = 16

# The largest difference of a log-probability (nats) that rounding explains, by the coarser of the types
# that both sides computed in. Measured on random GPT-2 and LLaMA models of 2 to 24 layers, initialised
# with deviations of 0.02 to 0.1, against fp64 or fp32: at most 6e-5 in fp32, 0.09 in fp16, 0.55 in bf16
# (0.15 without the widest and deepest). A shuffled head moved them by 0.75 to 6.6, one attention matrix
# set to zero by 0.004 to 1.8: found in fp32 always, in bf16 not.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.6}


def probe_tokens(vocabulary_size: int) -> torch.Tensor:
    """(1, 16) the same tokens for the same vocabulary, on any machine."""
    # A linear congruential generator (Numerical Recipes), because torch's may change with its version.
    state, tokens = 1, []
    for _ in range(PROBE_TOKENS):
        state = (1664525 * state + 1013904223) % 2**32
        tokens.append((state >> 8) % vocabulary_size)
    return torch.tensor([tokens])


@torch.no_grad()
def probe(
    logits: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    vocabulary_size: int,
    device: torch.device,
) -> list[float]:
    """Log-probability (nats, taken in fp32) of each token of the row but the first.

    `logits` takes tokens and position_ids (1, 16) and gives (1, 16, V); the model must be in evaluation
    mode. Under DeepSpeed every rank must call this at once.
    """
    tokens = probe_tokens(vocabulary_size).to(device)
    positions = torch.arange(PROBE_TOKENS, device=device)[None]
    spread = logits(tokens, positions).float().log_softmax(-1)
    return spread[0, :-1].gather(-1, tokens[0, 1:, None])[:, 0].tolist()


def probe_folder(folder: Path) -> list[float]:
    """The same of a Hugging Face folder, loaded by transformers and computed on the CPU.

    Weights stay in their files until a module needs them, so that the model may be larger than memory.
    """
    from transformers import AutoModelForCausalLM

    with TemporaryDirectory(dir=folder.parent, prefix=".probe") as aside:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype="auto",
            device_map=_on_disk(folder),
            offload_folder=aside,
            output_loading_info=True,
        )
        model, info = loaded
        faults = [name for key in ("missing_keys", "unexpected_keys") for name in info[key]]
        if faults:
            raise DataError(
                f"{folder}: transformers does not find all of the model there, or finds more "
                f"({faults[0]}); this model's files must be written by another program"
            )
        model.eval()
        return probe(
            lambda tokens, positions: (
                model(input_ids=tokens, position_ids=positions, use_cache=False).logits
            ),
            model.config.vocab_size,
            torch.device("cpu"),
        )


def _on_disk(folder: Path) -> dict[str, str]:
    """accelerate's map of devices: all on disk, but for the smallest module, as it wants one elsewhere."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    sizes: dict[str, int] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        module = name.rpartition(".")[0]
        sizes[module] = sizes.get(module, 0) + parameter.numel()
    places = dict.fromkeys(sizes, "disk")
    places[min(sizes, key=lambda module: sizes[module])] = "cpu"
    return places


def compare(found: Sequence[float], expected: Sequence[float], dtype: torch.dtype) -> float:
    """The largest difference; DataError where it is more than rounding in `dtype` explains."""
    moves = [abs(ours - theirs) for ours, theirs in zip(found, expected, strict=True)]
    moved = max(moves, key=lambda one: math.inf if math.isnan(one) else one)
    if not moved <= TOLERANCE[dtype]:  # of NaN this is true
        raise DataError(
            f"the exported model is not the one that was trained: log-probabilities of a fixed row of "
            f"tokens differ by up to {moved:.2g} nats, at most {TOLERANCE[dtype]:g} was expected; nothing "
            "was kept. Export another step, and report this with the run's config.yaml"
        )
    return moved
