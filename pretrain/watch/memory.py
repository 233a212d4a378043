"""How much memory a rank will need, from the config alone, and how much it came to need.

The states of the model as in the ZeRO paper (arXiv:1910.02054, section 3.1, here with fp32 gradients), activations
in the manner of Korthikanti et al. (arXiv:2205.05198, section 4.1), counted anew for transformers' modules, which
keep more than Megatron's. CUDA itself, NCCL's buffers and fragmentation come on top: 1 to 3 GB.
"""

import resource
from dataclasses import dataclass
from typing import Any

import torch

from pretrain.config import RunConfig
from pretrain.engine.loss import CHUNK_ELEMENTS

# Numbers in fp32 that the optimizer keeps of each trained weight, besides the weight itself in fp32.
STATES = {"adamw": 2, "lion": 1, "muon": 1}


@dataclass(frozen=True)
class Memory:
    """Bytes by what they are for, on the device and in the host's memory, of one rank."""

    device: dict[str, int]
    host: dict[str, int]


def estimate(
    config: RunConfig,
    deepspeed_settings: dict[str, Any],
    model: Any,
    parameters: int,
    trained_parameters: int,
    ranks: int,
    micro_batch: int,
    sequence_length: int,
) -> Memory:
    """What a rank of `ranks` will hold at its peak; `model` is transformers' config of it."""
    zero = deepspeed_settings["zero_optimization"]
    stage = zero["stage"]
    size = 4 if config.training.precision == "fp32" else 2
    weights = size * parameters // (ranks if stage == 3 else 1)
    secondary = zero.get("zero_hpz_partition_size", 1)
    if secondary > 1:
        weights += size * parameters // secondary
    gradients = 4 * trained_parameters // (ranks if stage >= 2 else 1)
    optimizer = 4 * (1 + STATES[config.optimizer.name]) * trained_parameters // ranks
    live = 0
    if stage == 3 and (ranks > 1 or _offloaded(zero, "offload_param")):
        live = size * min(parameters, int(zero["stage3_max_live_parameters"]))
    tokens = micro_batch * sequence_length // config.training.sequence_parallel
    device = {
        "gathered weights": live,
        "activations": _activations(config, model, tokens, size, sequence_length),
        "loss": _loss(model, tokens),
    }
    host: dict[str, int] = {}
    for name, part, offload in (
        ("weights", weights, "offload_param"),
        ("gradients", gradients, "offload_optimizer"),
        ("optimizer", optimizer, "offload_optimizer"),
    ):
        place = zero.get(offload, {}).get("device", "none")
        if place != "nvme":
            (host if place == "cpu" else device)[name] = part
    return Memory(device, host)


def _offloaded(zero: dict[str, Any], part: str) -> bool:
    return zero.get(part, {}).get("device", "none") != "none"


def _activations(config: RunConfig, model: Any, tokens: int, size: int, length: int) -> int:
    """Bytes kept for the backward pass, besides those of the loss."""
    layer = tokens * layer_activations(model, size)
    if config.model.implementation == "eager":
        # scores, their softmax in fp32 and in training precision, for every pair of tokens
        layer += tokens * length * model.num_attention_heads * (4 + 2 * size)
    layers = model.num_hidden_layers
    if config.training.activation_checkpointing:
        return tokens * size * model.hidden_size * layers + layer
    return layers * layer


def layer_activations(model: Any, size: int) -> int:
    """Bytes of one layer for a token, `size` bytes a number: what transformers' modules keep for backward.

    Exact for GPT-2, LLaMA, Mistral and Qwen 2; families with more norms (Qwen 3, GLM-4, OLMo 2) keep up to
    a half more.
    """
    hidden, heads = model.hidden_size, model.num_attention_heads
    head = getattr(model, "head_dim", None) or hidden // heads
    queries, keys = heads * head, (getattr(model, "num_key_value_heads", None) or heads) * head
    attention = 2 * queries + 2 * keys  # queries, keys, values, and what comes out
    inner = getattr(model, "intermediate_size", None) or getattr(model, "n_inner", None)
    inner = inner or 4 * hidden
    if getattr(model, "hidden_act", None) == "silu":  # gated
        # An RMSNorm keeps its input in fp32, itself before its weight, and is the next layer's input.
        return size * (attention + 4 * inner) + 2 * hidden * (2 * size + 4)
    # GPT-2's own GELU, made of single operations, keeps five tensors; a LayerNorm two.
    return size * (attention + 5 * inner + 4 * hidden)


def _loss(model: Any, tokens: int) -> int:
    """Bytes of a chunk of logits and of its softmax, and of the gradients of head and hidden states, fp32."""
    vocabulary, hidden = model.vocab_size, model.hidden_size
    return 6 * min(CHUNK_ELEMENTS, tokens * vocabulary) + 4 * hidden * (vocabulary + tokens)


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process held so far: of tensors on a GPU, of everything on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def device_memory(device: torch.device) -> int | None:
    """Bytes that a GPU has; None for a CPU, whose memory ranks and others share."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return None
