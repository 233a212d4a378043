"""The FLOPs of a token, held against a count of every multiplication that torch does."""

from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from pretrain.config import Lora, Model
from pretrain.model.build import with_adapters
from pretrain.watch.flops import flops_per_token, peak_flops

LENGTH, ROWS = 48, 2
COMMON = {"vocab_size": 300, "attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": 0}
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 3, "n_embd": 64, "n_head": 4, "n_positions": 64, "vocab_size": 300},
    "llama": COMMON
    | {"num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 160}
    | {"num_attention_heads": 4, "num_key_value_heads": 2},
    # heads wider together than the hidden states
    "qwen3": COMMON
    | {"num_hidden_layers": 3, "hidden_size": 48, "intermediate_size": 96, "head_dim": 32}
    | {"num_attention_heads": 4, "num_key_value_heads": 1, "tie_word_embeddings": True},
}


def build(name: str) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **MODELS[name])
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager")


def counted(model: Any) -> float:
    """FLOPs of a token, as torch's dispatcher sees them pass; eager attention multiplies all L x L."""
    tokens = torch.randint(300, (ROWS, LENGTH))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
    return counter.get_total_flops() / tokens.numel()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_trained_whole_needs_what_torch_counts(name):
    model = build(name)
    # LLaMA's rotary angles are a product, too: one FLOP in ten thousand.
    assert flops_per_token(model, model.config, LENGTH) == pytest.approx(counted(model), rel=2e-3)


@pytest.mark.parametrize("name", MODELS)
def test_adapters_leave_the_gradients_of_frozen_weights_out(name):
    model = with_adapters(build(name), Model(path="base", lora=Lora(rank=4)))
    # Which of the first layer's inputs need a gradient is not looked at that closely.
    assert flops_per_token(model, model.config, LENGTH) == pytest.approx(counted(model), rel=0.02)


@pytest.mark.parametrize(
    ("name", "frozen"),
    [
        ("gpt2", ["transformer.w*", "transformer.h.0.*", "transformer.h.1.*"]),
        ("llama", ["model.embed_tokens*", "model.layers.0.*"]),
        ("llama", ["model.layers.1.*"]),
        ("llama", ["model.*"]),
    ],
)
def test_frozen_layers_below_all_that_is_trained_are_only_run_forward(name, frozen):
    model = build(name)
    head = model.get_output_embeddings().weight
    if any(pattern.startswith("transformer.w") for pattern in frozen):
        model.lm_head.weight = torch.nn.Parameter(head.detach().clone())  # no longer tied
    for parameter, value in model.named_parameters():
        value.requires_grad_(not any(fnmatchcase(parameter, pattern) for pattern in frozen))
    # Within the lowest trained layer of three, some inputs need no gradient.
    assert flops_per_token(model, model.config, LENGTH) == pytest.approx(counted(model), rel=0.06)


def test_the_definition_for_known_models():
    """PaLM's formula by hand, of LLaMA-7B (arXiv:2302.13971) and BioMedLM (arXiv:2403.18421)."""
    with torch.device("meta"):
        llama = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama"))
        biomedlm = AutoModelForCausalLM.from_config(
            AutoConfig.for_model("gpt2", n_embd=2560, n_layer=32, n_head=20, vocab_size=28896)
        )
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 32000 * 4096
    expected = 6 * weights + 12 * 32 * 4096 * 2048
    assert flops_per_token(llama, llama.config, 2048) == expected
    weights = 32 * 12 * 2560**2 + 28896 * 2560
    expected = 6 * weights + 12 * 32 * 2560 * 1024
    assert flops_per_token(biomedlm, biomedlm.config, 1024) == expected


def test_a_mixture_of_experts_is_not_guessed_at():
    experts = AutoConfig.for_model(
        "mixtral", num_hidden_layers=1, hidden_size=32, num_local_experts=4
    )
    assert flops_per_token(torch.nn.Linear(2, 2), experts, LENGTH) is None


@pytest.mark.parametrize(
    ("name", "precision", "teraflops"),
    [
        ("NVIDIA H200", "bf16", 989),
        ("NVIDIA H100 80GB HBM3", "bf16", 989),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A100 80GB PCIe", "fp16", 312),
        ("NVIDIA A10", "bf16", 125),
        ("NVIDIA A10G", "bf16", None),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA L40", "bf16", 181),
        ("NVIDIA L40S", "bf16", 362),
        ("NVIDIA GB200", "bf16", 2500),
        ("NVIDIA B200", "bf16", 2250),
        ("NVIDIA GH200 480GB", "bf16", 990),
        ("Tesla V100-SXM2-32GB", "fp16", 125),
        ("Tesla V100-PCIE-16GB", "fp16", 112),
        ("Tesla V100S-PCIE-32GB", "fp16", 130),
        ("Tesla V100-SXM2-32GB", "bf16", None),  # it has no such units
        ("Tesla T4", "fp16", 65),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("NVIDIA GeForce RTX 4090 D", "bf16", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16", None),  # a seventh of the card
        ("NVIDIA H100 80GB HBM3", "fp32", None),
        ("cpu", "bf16", None),
    ],
)
def test_the_peak_is_that_of_the_card_and_the_precision(name, precision, teraflops):
    expected = None if teraflops is None else teraflops * 1e12
    assert peak_flops(name, precision) == expected
