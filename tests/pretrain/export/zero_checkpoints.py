"""Run under the deepspeed launcher: FOLDER/NAME/checkpoint and what it holds, FOLDER/NAME/weights.pt.

A model of its own for each ZeRO stage and precision, trained for two steps without the trainer. With a
second argument, LARGE, only one of 335M parameters, untrained.
"""

import sys
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM

from pretrain.engine.communication_op import load_communication_op
from tests import tiny

CASES = {"zero1-bf16": (1, "bf16"), "zero2-fp32": (2, "fp32"), "zero3-bf16": (3, "bf16")}


def settings(stage: int, precision: str) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
    }
    if precision == "bf16":
        chosen |= {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    return chosen


LARGE: dict[str, Any] = {"n_embd": 1024, "n_head": 16, "n_layer": 24, "n_positions": 64}


def make_large(folder: Path) -> None:
    architecture: dict[str, Any] = tiny.GPT2 | LARGE
    config = AutoConfig.for_model(architecture.pop("model_type"), vocab_size=32000, **architecture)
    config.save_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings(3, "bf16"))
    engine.save_checkpoint(str(folder / "checkpoints"), tag="step-00000001", save_latest=False)


def make(folder: Path, stage: int, precision: str) -> None:
    torch.manual_seed(3)
    architecture: dict[str, Any] = tiny.GPT2 | {"n_embd": 33, "n_head": 3}
    # 259 rows of 33: two ranks cannot share them evenly.
    config = AutoConfig.for_model(architecture.pop("model_type"), vocab_size=259, **architecture)
    model = AutoModelForCausalLM.from_config(config)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": others}], lr=1e-3)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=settings(stage, precision)
    )
    for step in range(2):
        tokens = torch.arange(16)[None] + 7 * step + dist.get_rank()
        engine.backward(engine(input_ids=tokens, labels=tokens, use_cache=False).loss)
        engine.step()
    engine.save_checkpoint(str(folder), tag="checkpoint", save_latest=False)
    held = {}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=stage == 3):
            held[name] = parameter.detach().float().clone()
    if dist.get_rank() == 0:
        torch.save(held, folder / "weights.pt")


if __name__ == "__main__":
    load_communication_op()
    deepspeed.init_distributed(verbose=False, auto_mpi_discovery=False)
    if len(sys.argv) > 2:
        make_large(Path(sys.argv[1]))
        CASES.clear()
    for name, (stage, precision) in CASES.items():
        make(Path(sys.argv[1]) / name, stage, precision)
    dist.destroy_process_group()
