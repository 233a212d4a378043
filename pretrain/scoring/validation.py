"""The loss on held-out shard sets, source by source, while training."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pretrain.config import RunConfig
from pretrain.data.validation_rows import validation_batches
from pretrain.distributed import Ranks
from pretrain.plan import Plan

if TYPE_CHECKING:
    from pretrain.engine.engine import Engine

ASK_EVERY = 8  # batches: a GPU is waited for each time


def validate(
    engine: "Engine",
    config: RunConfig,
    plan: Plan,
    ranks: Ranks,
    beat: Callable[[], None],
    to_stop: Callable[[], bool],
) -> dict[str, dict[str, Any]] | None:
    """Of each source loss (nats a token), perplexity and tokens; called by all ranks at once.

    `beat` is called before each batch, `to_stop` now and then: the same for all ranks; None where it says so.
    """
    stopped = False

    def watched(batches: Iterable[Any]) -> Iterator[Any]:
        nonlocal stopped
        for number, batch in enumerate(batches):
            beat()
            stopped = number % ASK_EVERY == 0 and to_stop()
            if stopped:
                return
            yield batch

    results: dict[str, dict[str, Any]] = {}
    for name, shards in plan.validation.items():
        batches = validation_batches(
            shards,
            ranks.data_rank,
            ranks.data_world,
            config.training.micro_batch,
            config.data.attention,
            limit=config.training.validation_sequences,
        )
        loss, tokens = engine.evaluate(watched(batches))
        if stopped:
            return None
        results[name] = {"loss": loss, "perplexity": _perplexity(loss), "tokens": tokens}
    return results


def _perplexity(loss: float) -> float:
    """exp(loss); infinite where a float does not hold it."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
