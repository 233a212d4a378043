"""One rank of a small training under plain DeepSpeed, which saves and loads by pretrain.checkpoints.checkpoint.

    python -m tests.pretrain.checkpoints.zero_worker TASK.json      (RANK, WORLD_SIZE, MASTER_PORT as a launcher sets them)

Rank 0 writes TASK.pt: losses by step, loss scales (fp16), which part of the weights ZeRO++ kept on it for the
backward pass of the last step, and the fp32 weights and moments of every parameter as DeepSpeed
itself gives them, whole: when loaded, when last saved, and at the end.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from transformers import AutoConfig, AutoModelForCausalLM

from data_prep.errors import ProjectError
from pretrain import distributed
from pretrain.checkpoints.branch import find_source
from pretrain.checkpoints.checkpoint import Checkpoints, read_state
from pretrain.checkpoints.layout import layout_of
from pretrain.config import Branch
from pretrain.engine.optimizer import Lion
from tests import tiny

BATCH = 4


def settings_of(task: dict[str, Any]) -> dict[str, Any]:
    precision = task.get("precision", "fp32")
    return {
        "train_micro_batch_size_per_gpu": BATCH // task["world"],
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 1.0,
        "zero_optimization": task["zero"],
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": precision == "bf16"},
        # So small a window that the scale changes in a few steps.
        "fp16": {
            "enabled": precision == "fp16",
            "initial_scale_power": 12,
            "loss_scale_window": 2,
        },
        "data_types": {"grad_accum_dtype": "fp32"},
    }


def model_of(task: dict[str, Any]) -> Any:
    torch.manual_seed(task.get("seed", 0))
    settings: dict[str, Any] = dict(tiny.GPT2)  # tied embeddings
    settings["n_embd"] = task.get("width", 32)
    config = AutoConfig.for_model(settings.pop("model_type"), vocab_size=61, **settings)
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not any(part in name for part in task.get("frozen", []))
    return model.to({"bf16": torch.bfloat16, "fp16": torch.float16}.get(task.get("precision", "")))


def optimizer_of(model: Any, task: dict[str, Any]) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    if task.get("optimizer") == "lion":
        return Lion(groups, lr=1e-4, betas=(0.9, 0.99))
    if task.get("offload"):
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(groups, lr=1e-3, betas=(0.9, 0.95))
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))


def loss_of(engine: Any, step: int, rank: int, world: int) -> torch.Tensor:
    """Mean loss of this rank's part of the batch, which depends on the step alone."""
    rows = torch.randint(0, 61, (BATCH, 16), generator=torch.Generator().manual_seed(step))
    mine = rows.tensor_split(world)[rank]
    return engine(input_ids=mine, labels=mine, use_cache=False).loss


def mean(value: torch.Tensor, world: int) -> float:
    return distributed.sum_over_ranks([float(value.detach())], torch.device("cpu"))[0] / world


def whole_state(engine: Any, keys: list[str]) -> dict[str, dict[str, torch.Tensor]]:
    if hasattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
        # DeepSpeed 0.19.8 does it after the first group's step, when the others have no moments yet.
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()
    return {
        name: {"fp32": safe_get_full_fp32_param(p).clone()}
        | {key: safe_get_full_optimizer_state(p, key).clone() for key in keys}
        for name, p in engine.module.named_parameters()
        if p.requires_grad
    }


def share_for_backward(engine: Any) -> float:
    """The part of the weights that ZeRO++ keeps here between the passes, beside ZeRO-3's own."""
    weights = list(engine.module.parameters())
    kept = [getattr(weight, "ds_secondary_tensor", None) for weight in weights]
    whole = sum(getattr(weight, "ds_numel", weight.numel()) for weight in weights)
    return sum(part.numel() for part in kept if part is not None) / whole


def main(path: Path) -> None:
    # DeepSpeed refuses fp16 on a CPU without instructions for it; torch computes it there all the same.
    get_accelerator().is_fp16_supported = lambda: True
    task = json.loads(path.read_text())
    ranks = distributed.Ranks.from_environment()
    distributed.start(5)
    settings = settings_of(task)
    layout = layout_of(settings, task.get("optimizer", "adamw"), ranks.world)
    checkpoints = Checkpoints(
        Path(task["folder"]), ranks, layout, 2, task.get("keep_every"), task.get("copy_to")
    )
    checkpoints.prepare()
    found, said = checkpoints.newest()
    model = model_of(task)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer_of(model, task), config=settings
    )
    keys = ["exp_avg"] if task.get("optimizer") == "lion" else ["exp_avg", "exp_avg_sq"]
    step = 0
    losses: dict[int, float] = {}
    scales: dict[int, float] = {}  # each after its step
    kept = 0.0
    states = {}
    if found:
        checkpoints.load(engine, found)
        step = read_state(found)["step"]
    elif task.get("branch"):
        source, _ = find_source(Branch.model_validate(task["branch"]), ranks)
        checkpoints.load(engine, source)
    if found or task.get("branch"):
        states["loaded"] = whole_state(engine, keys)
    for action in task["do"]:
        if action == "save":
            checkpoints.save(engine, step, {"step": step, "parameters": trained}, trained)
            if step:  # before it, stages 1 and 2 have no moments
                states["saved"] = whole_state(engine, keys)
        elif action == "roll back":
            found, _ = checkpoints.newest()
            assert found
            checkpoints.load(engine, found)
            step = read_state(found)["step"]
        else:
            for _ in range(action):
                step += 1
                loss = loss_of(engine, step + task.get("read", 0), ranks.rank, ranks.world)
                engine.backward(loss)
                kept = share_for_backward(engine)
                engine.step()
                losses[step] = mean(loss, ranks.world)
                if task.get("precision") == "fp16":
                    scales[step] = engine.optimizer.loss_scaler.loss_scale
    states["end"] = whole_state(engine, keys)
    if ranks.first:
        told = {"losses": losses, "scales": scales, "kept": kept, "said": said}
        torch.save(told | states, path.with_suffix(".pt"))
    distributed.barrier()
    distributed.stop()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except ProjectError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(error.exit_code)
    sys.stderr.flush()
    os._exit(0)
