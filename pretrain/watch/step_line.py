"""A step's line in metrics.jsonl; docs/formats.md says what its keys mean."""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from pretrain.order.order import Order
from pretrain.plan import Plan
from pretrain.watch.flops import Speed

if TYPE_CHECKING:
    from pretrain.engine.engine import StepResult


def step_line(
    plan: Plan,
    speed: Speed,
    result: "StepResult",
    *,
    step: int,
    rate: float,
    waited: float,
    trained_tokens: int,
    total_tokens: int,
    rows: dict[str, int],
    memory: int,
    overflows: int,
) -> dict[str, Any]:
    """The line of the step that made `step` completed ones.

    rate: learning rate. waited: seconds for all ranks' data, before the step. trained_tokens: of this step,
    total_tokens: of all. rows: of each source in this batch. memory: bytes at the peak, of rank 0. overflows:
    steps so far that fp16's loss scaling left out.
    """
    length = plan.manifest.sequence_length
    seconds = result.seconds + waited
    tokens_per_second = plan.order.global_batch_at(step - 1) * length / seconds
    line: dict[str, Any] = {
        "step": step,
        "loss": result.loss,
        "learning_rate": rate,
        "gradient_norm": result.gradient_norm,
        "trained_tokens": trained_tokens,
        "total_tokens": total_tokens,
        "tokens_per_second": tokens_per_second,
        **speed.of(tokens_per_second),
        "seconds": seconds,
        "seconds_in": {"data": waited, **result.parts},
        "memory_gb": memory / 1e9,
        "rows": rows,
        "tokens": {name: count * length for name, count in _sequences(plan.order, step).items()},
        "epochs": plan.order.epochs(step),
    }
    if result.z_loss:
        line["z_loss"] = result.z_loss
    if result.loss_scale is not None:
        line |= {"loss_scale": result.loss_scale, "overflows": overflows}
    return line


def _sequences(order: Order, step: int) -> dict[str, int]:
    """Of each source, the sequences of the batches before `step`: none of those that were skipped."""
    counts = np.zeros(len(order.sources), dtype=np.int64)
    for segment, after in pairwise([*order.segments, None]):
        if segment is None or segment.first >= step:
            break
        end = step if after is None else min(step, after.first)
        counts += segment.counts(end) - segment.counts(segment.first)
    return {source.name: int(count) for source, count in zip(order.sources, counts, strict=True)}
