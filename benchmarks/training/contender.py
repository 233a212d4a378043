"""What the contenders share: the model, its optimizer's groups, the saved batches, and the clock."""

import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.training.job import Job, Result
from benchmarks.training.profiler import step_profiler
from pretrain.watch.memory import peak_memory


def build_model(job: Job, dtype: torch.dtype) -> Any:
    """transformers' model with random weights; documents are kept apart by position_ids and sdpa's mask."""
    settings = dict(job.model)
    config = AutoConfig.for_model(settings.pop("model_type"), use_cache=False, **settings)
    torch.manual_seed(job.seed)
    return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")


def build_optimizer(job: Job, model: torch.nn.Module) -> torch.optim.AdamW:
    """AdamW in which matrices decay, as in our runs."""
    parameters = list(model.parameters())
    # A ZeRO-3 parameter is an empty tensor that knows its whole shape.
    matrices = [p for p in parameters if len(getattr(p, "ds_shape", p.shape)) >= 2]
    vectors = [p for p in parameters if len(getattr(p, "ds_shape", p.shape)) < 2]
    decay = job.optimizer["weight_decay"]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=job.optimizer["learning_rate"],
        betas=tuple(job.optimizer["betas"]),
        eps=job.optimizer["eps"],
        fused=torch.cuda.is_available(),
    )


def saved_batches(job: Job, rank: int) -> list[list[dict[str, torch.Tensor]]]:
    """The rank's micro-batches by step, under the names that a transformers model takes."""
    tensors = torch.load(Path(job.batches) / f"{rank}.pt")
    tensors["input_ids"] = tensors.pop("tokens")
    steps, accumulation = tensors["labels"].shape[:2]
    return [
        [{name: tensor[step, place] for name, tensor in tensors.items()} for place in range(accumulation)]
        for step in range(steps)
    ]  # fmt: skip


class Clock:
    """Notes when each step has ended, the card's work included."""

    def __init__(self, job: Job):
        self._job = job
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._times: list[float] = []
        self._profiler = step_profiler(job.profile) if job.profile else None

    def step(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._times.append(time.time())
        if self._profiler:
            self._profiler.step()

    def write(self, losses: list[float]) -> None:
        """The result; called when the last step is done."""
        Result(self._times, losses, peak_memory(self._device) / 1e9).write(self._job.result)
