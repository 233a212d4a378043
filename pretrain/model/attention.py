"""Attention inside documents, on every backend.

sdpa and eager get a mask from transformers, L x L for each row, which it makes out of position_ids (see
pretrain/data/batch.py). varlen and flash_attention_2 get the borders of documents, cumulative sequence lengths
over all tokens of the micro-batch, and never make a mask: varlen is torch's own kernel where there is one,
and elsewhere the same in plain torch, document by document.
"""

import importlib.util
import inspect
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AutoModelForCausalLM, PretrainedConfig

from data_prep.errors import ConfigError

VARLEN = "varlen"
BY_BORDERS = (VARLEN, "flash_attention_2")  # told where documents begin, instead of masked
# transformers' flags of a model class.
FLAGS = {"sdpa": "_supports_sdpa", "flash_attention_2": "_supports_flash_attn"}
HALF = (torch.bfloat16, torch.float16)
# Of FlashAttention-2, which torch's kernel is: github.com/Dao-AILab/flash-attention, README.
LARGEST_HEAD = 256
FIRST_CAPABILITY = (8, 0)  # Ampere
# torch 2.11's varlen_attn has no such argument (pytorch#179468, in 2.12).
GROUPED = "enable_gqa" in inspect.signature(varlen_attn).parameters


def choose(implementation: str, device: torch.device, config: PretrainedConfig) -> str:
    """transformers' name of the attention to use on `device`; `config.dtype` is the one trained in.

    auto is varlen on a GPU, where no `obstacle` is in its way, else sdpa, or eager for a model class that
    has no sdpa. Raises ConfigError for one that cannot be used.
    """
    model_class: Any = AutoModelForCausalLM._model_mapping[type(config)]
    missing = [name for name, flag in FLAGS.items() if not getattr(model_class, flag)]
    if implementation == "auto":
        if device.type == "cuda" and not obstacle(device, config):
            return VARLEN
        return "eager" if "sdpa" in missing else "sdpa"
    if implementation in missing:
        raise ConfigError(
            f"model.implementation: {model_class.__name__} has no {implementation}; choose auto"
        )
    if implementation == VARLEN and (found := obstacle(device, config)):
        raise ConfigError(f"model.implementation: varlen cannot be used, for {found}; choose sdpa")
    if implementation == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise ConfigError(
            "model.implementation: flash_attention_2 needs the package flash-attn, which is not "
            "installed (the extra gpu brings it); install it, or choose auto"
        )
    if implementation == "flash_attention_2" and (
        device.type != "cuda" or config.dtype not in HALF
    ):
        raise ConfigError(
            "model.implementation: flash_attention_2 needs a GPU and training.precision bf16 or fp16; choose auto"
        )
    return implementation


def obstacle(device: torch.device, config: PretrainedConfig) -> str | None:
    """Why varlen cannot compute this model's attention, or None; `config.dtype` is the one trained in."""
    model_class: Any = AutoModelForCausalLM._model_mapping[type(config)]
    if not model_class._supports_attention_backend:
        return f"{model_class.__name__} has an attention of its own"
    rate = max(getattr(config, key, 0.0) for key in ("attn_pdrop", "attention_dropout"))
    if rate > 0:
        return f"the kernel has no dropout, and the model's attention dropout is {rate}"
    if device.type != "cuda":
        return None
    if config.dtype not in HALF:
        return f"the kernel computes in bf16 or fp16, and the precision is {config.dtype}"
    if torch.cuda.get_device_capability(device) < FIRST_CAPABILITY:
        return f"the kernel needs an Ampere GPU or a later one, and this is a {torch.cuda.get_device_name(device)}"
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if head > LARGEST_HEAD or head % 8 or hasattr(config, "v_head_dim"):
        return f"the kernel takes heads of 8, 16, … {LARGEST_HEAD} numbers, and the model's have {head}"
    return None


def model_inputs(
    tokens: torch.Tensor, position_ids: torch.Tensor, implementation: str
) -> dict[str, Any]:
    """Keyword arguments of a transformers model for packed rows; tokens and position_ids (B, L).

    A document goes on where the position grows by exactly one inside a row, as transformers has it. No
    mask and no cache: with either, it would not see the documents. Where `implementation` is told
    borders, they count through the rows laid end to end. The GPU is not waited for if position_ids are
    on the CPU, once a call if they are not.
    """
    inputs: dict[str, Any] = {
        "input_ids": tokens,
        "position_ids": to_device(position_ids, tokens.device),
        "use_cache": False,
    }
    if implementation in BY_BORDERS:
        positions = position_ids.cpu()
        begins = torch.ones_like(positions, dtype=torch.bool)
        begins[:, 1:] = positions.diff() != 1
        # Padding, tokens alone that stand side by side, is one document: nothing is predicted there, and
        # the kernel's backward pass takes memory for each document (128 rows of fp32, FlashAttention-2).
        alone = begins & functional.pad(begins[:, 1:], (0, 1), value=True)
        begins[:, 1:] &= ~(alone[:, 1:] & alone[:, :-1])
        borders = functional.pad(begins.flatten().nonzero().flatten(), (0, 1), value=begins.numel())
        cumulative = to_device(borders.to(torch.int32), tokens.device)
        longest = int(borders.diff().max())
        inputs |= {"cu_seq_lens_q": cumulative, "cu_seq_lens_k": cumulative}
        inputs |= {"max_length_q": longest, "max_length_k": longest}
    return inputs


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on `device`, without waiting for what a GPU computes."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        # An expanded tensor cannot be pinned: torch writes into a copy of the same strides.
        tensor = tensor.contiguous().pin_memory()
    return tensor.to(device, non_blocking=True)


@torch.compiler.disable  # the number and lengths of documents change from batch to batch
def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers: (B, H, L, D) query, (B, K, L, D) key and value to (B, L, H, D).

    `cu_seq_lens_q` (documents + 1), int32: borders of documents in the B L tokens, `max_length_q` the
    longest one. A token sees itself and the `sliding_window` - 1 tokens before it (None: all) of its
    document. Raises ConfigError for what a model wants and this does not do.
    """
    if cu_seq_lens_q is None or max_length_q is None or attention_mask is not None:
        raise ConfigError(
            f"model.implementation: varlen cannot be used, for {type(module).__name__} does not get the "
            "documents' borders alone; choose sdpa"
        )
    unknown = [key for key in ("softcap", "s_aux", "position_bias") if options.get(key) is not None]
    if dropout or unknown:
        raise ConfigError(
            f"model.implementation: varlen cannot be used, for {type(module).__name__} wants "
            f"{unknown[0] if unknown else 'dropout'}, which it does not do; choose eager"
        )
    rows, _, length, _ = query.shape
    query, key, value = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
    if sliding_window is not None and sliding_window >= max_length_q:
        sliding_window = None
    if query.is_cuda and query.dtype in HALF:
        output = _kernel(query, key, value, cu_seq_lens_q, max_length_q, scaling, sliding_window)
    else:
        output = by_document(query, key, value, cu_seq_lens_q, scaling, sliding_window)
    return output.view(rows, length, *output.shape[1:]), None


def _kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    longest: int,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    groups = query.shape[1] // key.shape[1]
    options: dict[str, Any] = {}
    if groups > 1 and GROUPED:
        options["enable_gqa"] = True
    elif groups > 1:
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    # The kernel counts the tokens to the left, the window has the token itself in it.
    left = -1 if window is None else window - 1
    output = varlen_attn(
        query,
        key,
        value,
        borders,
        borders,
        longest,
        longest,
        scale=scale,
        window_size=(left, 0),
        **options,
    )
    assert isinstance(output, torch.Tensor)  # a pair only where auxiliary outputs are asked for
    return output


def by_document(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    scale: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """Causal attention inside documents: (T, H, D) query, (T, K, D) key and value to (T, H, D).

    One call for all documents of a length, for padding is thousands of documents of one token.
    """
    starts, lengths = borders[:-1].long(), borders.diff()
    places, outputs = [], []
    for length in lengths.unique().tolist():
        tokens = starts[lengths == length, None] + torch.arange(length, device=borders.device)
        chosen = [part[tokens].transpose(1, 2) for part in (query, key, value)]
        output = _causal(chosen[0], chosen[1], chosen[2], scale, window)
        places.append(tokens.flatten())
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[torch.cat(places).argsort()]


def _causal(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """(N, H, L, D) query, (N, K, L, D) key and value to (N, H, L, D), with or without a window."""
    length = query.shape[2]
    options: dict[str, Any] = {"scale": scale, "enable_gqa": query.shape[1] != key.shape[1]}
    if window is None or window >= length:
        return scaled_dot_product_attention(query, key, value, is_causal=True, **options)
    # As many queries at a time as the window is long, so that no mask is larger than 2 windows square.
    parts = []
    for first in range(0, length, window):
        begin, end = max(0, first - window + 1), min(first + window, length)
        distance = (
            torch.arange(first, end, device=query.device)[:, None]
            - torch.arange(begin, end, device=query.device)[None]
        )
        parts.append(
            scaled_dot_product_attention(
                query[:, :, first:end],
                key[:, :, begin:end],
                value[:, :, begin:end],
                attn_mask=(distance >= 0) & (distance < window),
                **options,
            )
        )
    return torch.cat(parts, dim=2)


# Of a name without a mask function, transformers makes no mask (masking_utils, checked with 5.23).
AttentionInterface.register(VARLEN, varlen_attention)
