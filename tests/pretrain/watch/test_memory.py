"""What a rank is said to need, held against what autograd keeps and what ZeRO's paper says."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pretrain.config import RunConfig
from pretrain.watch.memory import estimate, layer_activations, peak_memory
from tests import tiny

HIDDEN, ROWS, LENGTH = 128, 2, 64
GATED: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": HIDDEN,
    "intermediate_size": 3 * HIDDEN,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
GPT2: dict[str, Any] = {"n_embd": HIDDEN, "n_head": 4, "n_positions": LENGTH, "vocab_size": 300}
BILLIONS = 7_500_000_000


def kept_bytes(name: str, settings: dict[str, Any], layers: int, dtype: torch.dtype) -> int:
    """Bytes that autograd keeps for the backward pass, besides the weights, each storage once."""
    torch.manual_seed(0)
    layer_key = "n_layer" if name == "gpt2" else "num_hidden_layers"
    config = AutoConfig.for_model(name, **settings | {layer_key: layers})
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # alive, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.base_model(torch.randint(300, (ROWS, LENGTH)), use_cache=False)
    return sum(
        tensor.untyped_storage().nbytes()
        for address, tensor in kept.items()
        if address not in weights
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("name", "settings", "over", "under"),
    [
        ("gpt2", GPT2 | DROPOUT, 0.02, 0.02),
        ("llama", GATED, 0.02, 0.02),
        ("mistral", GATED, 0.02, 0.02),
        ("qwen2", GATED, 0.02, 0.02),
        ("qwen3", GATED | {"head_dim": 32}, 0.0, 0.2),
        ("glm4", GATED | {"head_dim": 32}, 0.0, 0.3),
        ("olmo2", GATED | {"num_key_value_heads": 4}, 0.0, 0.35),
    ],
)
def test_a_layers_activations_are_those_that_autograd_keeps(name, settings, over, under, dtype):
    # The difference of two depths leaves embeddings and the last norm out.
    kept = kept_bytes(name, settings, 3, dtype) - kept_bytes(name, settings, 1, dtype)
    of_token = kept / 2 / (ROWS * LENGTH)
    said = layer_activations(AutoConfig.for_model(name, **settings), dtype.itemsize)
    assert (1 - under) * of_token <= said <= (1 + over) * of_token


def run(tmp_path: Path, **changes: Any) -> RunConfig:
    values = {"training__precision": "bf16", "training__micro_batch": 4} | changes
    return RunConfig.model_validate(tiny.run_config(tmp_path, {"a": tmp_path}, **values))


def of(config: RunConfig, zero: dict[str, Any], ranks: int = 64, trained: int = BILLIONS):
    zero = {"stage3_max_live_parameters": 10**9} | zero
    model = AutoConfig.for_model("llama")
    return estimate(config, {"zero_optimization": zero}, model, BILLIONS, trained, ranks, 4, 2048)


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "optimizer"),
    [(1, 2.0, 4.0, 12 / 64), (2, 2.0, 4 / 64, 12 / 64), (3, 2 / 64, 4 / 64, 12 / 64)],
)
def test_states_are_divided_as_the_stage_says(tmp_path, stage, weights, gradients, optimizer):
    """Bytes a parameter, table 1 of arXiv:1910.02054 but for gradients, which are fp32 here."""
    device = of(run(tmp_path), {"stage": stage}).device
    found = [device[name] / BILLIONS for name in ("weights", "gradients", "optimizer")]
    assert found == pytest.approx([weights, gradients, optimizer])
    assert device["gathered weights"] == (2 * 10**9 if stage == 3 else 0)


def test_adapters_need_gradients_and_optimizer_for_themselves_only(tmp_path):
    device = of(run(tmp_path), {"stage": 3}, trained=1_000_000).device
    assert device["gradients"] == 4 * 1_000_000 // 64
    assert device["optimizer"] == 12 * 1_000_000 // 64
    assert device["weights"] == 2 * BILLIONS // 64


def test_what_is_offloaded_is_not_on_the_device(tmp_path):
    to_cpu = {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
    found = of(run(tmp_path), {"stage": 3} | to_cpu)
    assert set(found.host) == {"weights", "gradients", "optimizer"}
    assert set(found.device) == {"gathered weights", "activations", "loss"}
    to_disk = {"offload_optimizer": {"device": "nvme"}}
    found = of(run(tmp_path), {"stage": 3} | to_disk)
    assert found.host == {}
    assert "optimizer" not in found.device


def test_lion_keeps_one_moment_less(tmp_path):
    adamw = of(run(tmp_path), {"stage": 3}).device["optimizer"]
    lion = of(run(tmp_path, optimizer__name="lion"), {"stage": 3}).device["optimizer"]
    assert lion / adamw == pytest.approx(8 / 12)


def test_recomputed_activations_leave_one_layer_and_the_inputs_of_all(tmp_path):
    model, tokens = AutoConfig.for_model("llama"), 4 * 2048
    whole = of(run(tmp_path), {"stage": 3}).device["activations"]
    config = run(tmp_path, training__activation_checkpointing=True)
    recomputed = of(config, {"stage": 3}).device["activations"]
    layer = layer_activations(model, 2) * tokens
    assert whole == 32 * layer
    assert recomputed == layer + 32 * 2 * 4096 * tokens


def test_the_peak_of_a_process_holds_what_it_allocated():
    device = torch.device("cpu")
    before = peak_memory(device)
    held = torch.ones(max(before, 200 * 2**20), dtype=torch.uint8)  # more than it ever had
    assert peak_memory(device) >= before + len(held) // 2
