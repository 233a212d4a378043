"""A step's line in metrics.jsonl; docs/formats.md says what its keys mean."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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
    sequences: Mapping[str, int],
    memory: int,
    overflows: int,
) -> dict[str, Any]:
    """The line of the step that made `step` completed ones.

    rate: learning rate. waited: seconds for all ranks' data, before the step. trained_tokens: of this step,
    total_tokens: of all. rows: of each source in this batch, sequences: in all so far. memory: bytes at the
    peak, of rank 0. overflows: steps so far that fp16's loss scaling left out.
    """
    length = plan.manifest.sequence_length
    seconds = result.seconds + waited
    tokens_per_second = sum(rows.values()) * length / seconds
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
        "tokens": {source.name: sequences[source.name] * length for source in plan.order.sources},
        "epochs": plan.order.epochs(step),
    }
    if result.z_loss:
        line["z_loss"] = result.z_loss
    if result.loss_scale is not None:
        line |= {"loss_scale": result.loss_scale, "overflows": overflows}
    return line
