"""What is trained: models, lengths, batches."""

from dataclasses import dataclass, replace
from typing import Any

NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


@dataclass(frozen=True)
class Case:
    """One model with its batch; `model` holds transformers' own keys."""

    title: str
    model: dict[str, Any]
    vocabulary: int
    sequence: int
    global_batch: int  # sequences a step, over all ranks
    micro_batch: int  # sequences a rank computes at once
    precision: str
    ranks: int
    activation_checkpointing: bool = False

    @property
    def accumulation(self) -> int:
        return self.global_batch // (self.ranks * self.micro_batch)

    @property
    def tokens(self) -> int:
        """Of one step."""
        return self.global_batch * self.sequence


def _gpt2(layers: int, width: int, heads: int, positions: int, **others: Any) -> dict[str, Any]:
    sizes = {"n_layer": layers, "n_embd": width, "n_head": heads, "n_positions": positions}
    return {"model_type": "gpt2"} | sizes | NO_DROPOUT | others


def _llama(layers: int, width: int, heads: int, inner: int, positions: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "max_position_embeddings": positions,
        "rms_norm_eps": 1e-6,
    }


# 15 million parameters: a step of some seconds on one core a rank, so that 3 % are seen.
CPU = Case("GPT-2 of 15M", _gpt2(8, 320, 5, 256), 16_384, 256, 8, 2, "fp32", 2)

# The published configs, without dropout, with which no kernel for packed documents goes. About 32,000
# tokens a step: the optimizer's part is then what it is with a cluster's batch on many cards.
GPU = {
    "biomedlm": Case(
        "BioMedLM 2.7B",
        _gpt2(32, 2560, 20, 1024, scale_attn_by_inverse_layer_idx=True),
        28_896,
        1024,
        32,
        8,
        "bf16",
        1,
    ),
    "llama": Case(
        "LLaMA-7B", _llama(32, 4096, 32, 11_008, 2048), 32_000, 2048, 16, 1, "bf16", 1
    ),
}  # fmt: skip

_TINY_MODELS = {
    "biomedlm": _gpt2(2, 64, 2, 128, scale_attn_by_inverse_layer_idx=True),
    "llama": _llama(2, 64, 2, 160, 128),
}


def tiny(name: str) -> Case:
    """A case of GPU made so small that any machine goes the same way in seconds."""
    case = replace(GPU[name], model=_TINY_MODELS[name], vocabulary=512, sequence=128)
    return replace(case, title=f"{case.title}, tiny", global_batch=4, micro_batch=2)
