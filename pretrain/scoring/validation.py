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


def validate(
    engine: "Engine", config: RunConfig, plan: Plan, ranks: Ranks, beat: Callable[[], None]
) -> dict[str, dict[str, Any]]:
    """Of each source loss (nats a token), perplexity and tokens; called by all ranks at once.

    `beat` is called before each batch.
    """
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
        loss, tokens = engine.evaluate(_beating(batches, beat))
        results[name] = {"loss": loss, "perplexity": _perplexity(loss), "tokens": tokens}
    return results


def _beating(batches: Iterable[Any], beat: Callable[[], None]) -> Iterator[Any]:
    for batch in batches:
        beat()
        yield batch


def _perplexity(loss: float) -> float:
    """exp(loss); infinite where a float does not hold it."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
