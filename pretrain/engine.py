"""One optimizer step, and one evaluation, of the model under DeepSpeed."""

import hashlib
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch

from data_prep.errors import ProjectError
from pretrain import distributed
from pretrain.batch import trained_tokens as count_trained
from pretrain.config import Optimizer, RunConfig
from pretrain.loss import summed_loss


@dataclass(frozen=True)
class StepResult:
    """What one step did, the same on every rank."""

    loss: float  # nats a trained token, mean over the global batch
    gradient_norm: float  # before clipping
    seconds: float


def parameter_groups(model: torch.nn.Module, settings: Optimizer) -> list[dict[str, Any]]:
    """Weights with two or more dimensions decay; biases and norms do not (as GPT-2 and LLaMA did)."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # A ZeRO-3 parameter is an empty tensor that knows its whole shape.
    matrices = [p for p in trained if len(getattr(p, "ds_shape", p.shape)) >= 2]
    vectors = [p for p in trained if len(getattr(p, "ds_shape", p.shape)) < 2]
    groups = [(matrices, settings.weight_decay), (vectors, 0.0)]
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]


class Engine:
    """A model that all ranks train together; every method is called by all ranks at once."""

    def __init__(self, model: Any, config: RunConfig, deepspeed_settings: dict[str, Any]):
        settings = config.optimizer
        on_gpu = torch.cuda.is_available()
        optimizer = torch.optim.AdamW(
            parameter_groups(model, settings),
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            fused=on_gpu,
        )
        if config.training.activation_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            if config.model.lora:
                model.enable_input_require_grads()
        self._weight_decays = [group["weight_decay"] for group in optimizer.param_groups]
        self.deepspeed, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=deepspeed_settings
        )
        self.device = self.deepspeed.device
        self.seed = config.seed
        self._one_row = config.model.implementation == "flash_attention_2"
        self._settings = settings
        self.ranks = distributed.Ranks.from_environment()

    def restore_optimizer_settings(self) -> None:
        """Undo what loading a checkpoint does to the optimizer's settings (deepspeed 0.19.8).

        It brings back those the run was saved with, although a change may have been accepted; and a
        universal checkpoint gives every parameter group the settings of the first one, so that norms
        and biases would decay, and all of them one step counter, which each group's step would advance.
        """
        optimizer = self.deepspeed.optimizer.optimizer
        for group, weight_decay in zip(optimizer.param_groups, self._weight_decays, strict=True):
            group |= {
                "weight_decay": weight_decay,
                "betas": self._settings.betas,
                "eps": self._settings.eps,
            }
        for state in optimizer.state.values():
            state["step"] = torch.as_tensor(state["step"]).clone()

    def logits(self, tokens: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """(B, L, V) logits. No mask and no cache: with either, transformers would not see the documents.

        With flash attention it sees them in a batch of one row only; there a row's first position of 0
        is the border between rows.
        """
        rows, length = tokens.shape
        if self._one_row:
            tokens, position_ids = tokens.reshape(1, -1), position_ids.reshape(1, -1)
        out = self.deepspeed(input_ids=tokens, position_ids=position_ids, use_cache=False).logits
        return out.view(rows, length, -1)

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Summed loss of one micro-batch, fp32 scalar."""
        on_device = {
            name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()
        }
        logits = self.logits(on_device["tokens"], on_device["position_ids"])
        return summed_loss(logits, on_device["labels"])

    def train_step(
        self,
        step: int,
        micro_batches: list[dict[str, torch.Tensor]],
        trained_tokens: int,
        rate: float,
    ) -> StepResult:
        """Step `step` (from 1) over this rank's micro-batches; `trained_tokens` of the global batch.

        DeepSpeed divides by accumulation and averages over ranks, so each sum is multiplied by both
        and divided by the global count: the gradient is that of the mean over all trained tokens.
        """
        start = time.perf_counter()
        engine = self.deepspeed
        engine.train()
        # Dropout depends on seed, step and rank: the same again after a resume on as many ranks.
        torch.manual_seed(_seed_of(self.seed, step, self.ranks.rank))
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        # The divisor, whatever the number of micro-batches, which a phase with another batch changes.
        accumulation = engine.gradient_accumulation_steps()
        trained_tokens = max(1, trained_tokens)  # a batch may be masked whole: it changes nothing
        scale = accumulation * self.ranks.world / trained_tokens
        mean = math.nan
        total = torch.zeros((), device=self.device, dtype=torch.float64)
        for batch in micro_batches:
            last = batch is micro_batches[-1]
            engine.set_gradient_accumulation_boundary(last)
            loss = self.loss(batch)
            total += loss.detach()
            engine.backward(loss * scale)
            if last:
                mean = self._finite_mean(total, trained_tokens, step)
            engine.step()
        norm = float(engine.get_global_grad_norm())
        if not math.isfinite(norm):  # DeepSpeed has left the step out
            raise ProjectError(_not_finite(step, "gradient", norm))
        return StepResult(mean, norm, time.perf_counter() - start)

    def _finite_mean(self, total: torch.Tensor, trained_tokens: int, step: int) -> float:
        """Mean loss of the global batch; all ranks stop alike, before the optimizer's step, if it is no number."""
        mean = distributed.sum_over_ranks([total.item()], self.device)[0] / trained_tokens
        if not math.isfinite(mean):
            raise ProjectError(_not_finite(step, "loss", mean))
        return mean

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Any]) -> tuple[float, int]:
        """(mean loss in nats a token, tokens) over all ranks' batches, equal in number on each rank."""
        self.deepspeed.eval()
        total = torch.zeros((), device=self.device, dtype=torch.float64)
        tokens = 0
        for batch in batches:
            total += self.loss(batch)
            tokens += count_trained(batch["labels"])
        loss, count = distributed.sum_over_ranks([total.item(), tokens], self.device)
        return (loss / count if count else math.nan), int(count)


def _not_finite(step: int, what: str, value: float) -> str:
    return (
        f"step {step}: the {what} is {value}; the weights were not changed by it. Lower "
        "optimizer.learning_rate or lengthen schedule.warmup_steps, and start again from the last "
        "checkpoint"
    )


def _seed_of(*parts: Any) -> int:
    """A 63-bit seed that depends on all parts."""
    text = ":".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
