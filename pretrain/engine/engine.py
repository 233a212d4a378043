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
from pretrain.config import RunConfig
from pretrain.data.batch import IGNORED
from pretrain.engine.compilation import compile_layers
from pretrain.engine.loss import following, loss_head, loss_of_logits, passes_on, trained_places
from pretrain.engine.module_trace import forget_order
from pretrain.engine.nvme_parameters import let_checkpoints_load
from pretrain.engine.optimizer import (
    build_optimizer,
    group_settings,
    restore_settings,
    set_learning_rate,
)
from pretrain.engine.stopwatch import Stopwatch
from pretrain.model.attention import model_inputs, to_device
from pretrain.model.sequence_parallel import SequenceParallel

# What DeepSpeed counts of its steps, those left out as well.
COUNTERS = ("global_steps", "global_samples", "skipped_steps", "micro_steps")
PROBE_TOKENS = 8  # of the start-up look at what becomes of the head's logits


@dataclass(frozen=True)
class StepResult:
    """What one step did, the same on every rank but for the seconds.

    Where `finite` is false, the loss or the gradient was no number: weights, optimizer and counters are
    as they were before. After an `overflow` (fp16) the weights are, and the loss scale is lower.
    """

    loss: float  # nats a trained token, mean over the global batch, without the z term
    z_loss: float  # the z term, likewise
    gradient_norm: (
        float  # before clipping, of the unscaled gradient; infinite where a step was left out
    )
    seconds: float
    parts: dict[str, float]  # seconds in "forward", "backward" and "step"
    overflow: bool  # fp16: the scaled gradient did not fit
    loss_scale: float | None  # fp16: of the next step
    finite: bool


class Engine:
    """A model that all ranks train together; every method is called by all ranks at once.

    `loss_by_chunks` says whether the output head computes the loss (pretrain/engine/loss.py), or whole logits
    are needed because the model does something to them.
    """

    def __init__(
        self,
        model: Any,
        config: RunConfig,
        deepspeed_settings: dict[str, Any],
        sequence_parallel: SequenceParallel | None = None,
    ):
        optimizer = build_optimizer(model, config.optimizer, deepspeed_settings)
        if config.training.activation_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            if config.model.lora:
                model.enable_input_require_grads()
        self._groups = group_settings(optimizer)
        self._implementation = model.config._attn_implementation
        self._head = loss_head(model)
        self.deepspeed, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=deepspeed_settings
        )
        let_checkpoints_load(self.deepspeed)
        self.device = self.deepspeed.device
        self.seed = config.seed
        self.sequence_parallel = sequence_parallel
        self._z_loss = config.training.z_loss
        self.ranks = distributed.Ranks.from_environment()
        self._has_trained = False
        self._scales_loss = config.training.precision == "fp16"
        self.loss_by_chunks = self._head is not None and self._head_has_the_last_word(
            config.training.micro_batch
        )
        if config.training.compile:
            compile_layers(model)

    def restore_optimizer_settings(self) -> None:
        """Give the optimizer the run's own settings, after a checkpoint has been loaded."""
        restore_settings(self.deepspeed.optimizer.optimizer, self._groups)

    # ---- forward ---------------------------------------------------------------------------

    @torch.compiler.set_stance("force_eager")  # of few rows, of any length: see compile_layers
    def logits(self, tokens: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """(B, L, V) logits of tokens and position_ids (B, L)."""
        rows, length = tokens.shape
        found = self._forward(tokens, position_ids)
        found = found.view(rows, -1, found.shape[-1])
        if self.sequence_parallel:
            return self.sequence_parallel.whole_rows(found, length)
        return found

    def loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        """Of one micro-batch on the CPU: the summed loss with its z term and the z term, (2,) fp32; tokens.

        Both are this rank's share, where ranks share rows.
        """
        predicted = following(batch["labels"])
        if self.sequence_parallel:
            predicted = self.sequence_parallel.columns(predicted, IGNORED)
        places, targets = (to_device(part, self.device) for part in trained_places(predicted))
        inputs = (batch["tokens"], batch["position_ids"])
        if self._head is None or not self.loss_by_chunks:
            return loss_of_logits(self._forward(*inputs), places, targets, self._z_loss), len(
                places
            )
        with self._head.aimed_at(places, targets, self._z_loss):
            return self._forward(*inputs), len(places)

    def _forward(self, tokens: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """What the model gives for logits."""
        # Positions stay on the CPU: the borders of documents are counted there.
        tokens = to_device(tokens, self.device)
        if self.sequence_parallel:
            inputs = self.sequence_parallel.model_inputs(tokens, position_ids)
        else:
            inputs = model_inputs(tokens, position_ids, self._implementation)
        return self.deepspeed(**inputs).logits

    def _head_has_the_last_word(self, rows: int) -> bool:
        assert self._head is not None
        self.deepspeed.eval()
        tokens = torch.zeros((rows, PROBE_TOKENS), dtype=torch.int64)
        positions = torch.arange(PROBE_TOKENS).expand(rows, -1)
        return passes_on(lambda: self._forward(tokens, positions), self._head)

    # ---- training --------------------------------------------------------------------------

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
        Raises ProjectError where fp16 has no lower loss scale left.
        """
        start = time.perf_counter()
        engine, watch = self.deepspeed, Stopwatch(self.device)
        engine.train()
        if not self._has_trained:
            forget_order(engine)
            self._has_trained = True
        # Dropout depends on seed, step and rank: the same again after a resume on as many ranks.
        torch.manual_seed(_seed_of(self.seed, step, self.ranks.rank))
        set_learning_rate(engine.optimizer, rate)
        counters = {name: getattr(engine, name) for name in COUNTERS}
        scaler = self._loss_scaler()
        scaling = dict(vars(scaler)) if scaler else {}
        # The divisor, whatever the number of micro-batches, which a phase with another batch changes.
        accumulation = engine.gradient_accumulation_steps()
        trained_tokens = max(1, trained_tokens)  # a batch may be masked whole: it changes nothing
        scale = accumulation * self.ranks.world / trained_tokens
        sums = torch.zeros(2, device=self.device, dtype=torch.float64)
        for batch in micro_batches:
            engine.set_gradient_accumulation_boundary(batch is micro_batches[-1])
            with watch.part("forward"):
                losses, _ = self.loss(batch)
            loss = losses[0]
            sums += losses.detach()
            # A loss that is no number makes the gradient none, and DeepSpeed leaves the step out, on all
            # ranks: so nobody has to wait for the loss before the optimizer's step.
            factor = scale + 0 * loss.detach()
            with watch.part("backward"):
                engine.backward(loss * factor)
            with watch.part("step"):
                engine.step()
        total, z_term = distributed.sum_over_ranks(sums.tolist(), self.device)
        norm = float(engine.get_global_grad_norm())
        left_out = not math.isfinite(norm)
        if left_out:
            self._clear_offloaded_gradients()
        overflow = left_out and scaler is not None and math.isfinite(total)
        if overflow and scaler.dynamic and _scale_exhausted(scaling):
            raise ProjectError(
                f"step {step}: the gradient overflows fp16 at the lowest loss scale, {scaling['min_scale']:g}; "
                "the weights were not changed by it. Set training.precision to bf16, which needs no scale "
                "(BioMedLM's fp16 runs diverged, bf16 mended them), or to fp32 on a card without it"
            )
        finite = overflow or not left_out
        if not finite:
            for name, count in counters.items():
                setattr(engine, name, count)
            if scaler:
                vars(scaler).update(scaling)  # no scale would have helped
        return StepResult(
            loss=(total - z_term) / trained_tokens,
            z_loss=z_term / trained_tokens,
            gradient_norm=norm,
            seconds=time.perf_counter() - start,
            parts=watch.seconds(),
            overflow=overflow,
            loss_scale=float(scaler.loss_scale) if scaler else None,
            finite=finite,
        )

    def _clear_offloaded_gradients(self) -> None:
        """Finish what DeepSpeed does after a step it has left out (deepspeed 0.19.8, stage_1_and_2.py).

        Of stages 1 and 2 with the optimizer on the CPU, sums in fp32 of 16-bit gradients stay, and with
        them every later step would be left out, too.
        """
        optimizer = self.deepspeed.optimizer
        if getattr(optimizer, "cpu_offload", False):
            optimizer.averaged_gradients = dict.fromkeys(optimizer.averaged_gradients)

    def _loss_scaler(self) -> Any:
        """DeepSpeed's, of fp16 only; loading a checkpoint puts another one in its place."""
        if not self._scales_loss:
            return None
        scaler = self.deepspeed.optimizer.loss_scaler
        scaler.raise_error_at_min_scale = False  # `train_step` says it better
        return scaler

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Any]) -> tuple[float, int]:
        """(mean loss in nats a token, tokens) over all ranks' batches, equal in number on each rank."""
        self.deepspeed.eval()
        sums = torch.zeros(2, device=self.device, dtype=torch.float64)
        tokens = 0
        for batch in batches:
            losses, count = self.loss(batch)
            sums += losses
            tokens += count
        total, z_term, counted = distributed.sum_over_ranks([*sums.tolist(), tokens], self.device)
        return ((total - z_term) / counted if counted else math.nan), int(counted)


def _scale_exhausted(scaling: dict[str, Any]) -> bool:
    """Whether DeepSpeed's DynamicLossScaler, at an overflow, could not have lowered its scale."""
    patience = 1 in (scaling["delayed_shift"], scaling["cur_hysteresis"])
    return patience and scaling["cur_scale"] == scaling["min_scale"]


def _seed_of(*parts: Any) -> int:
    """A 63-bit seed that depends on all parts."""
    text = ":".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
