"""The order of modules that ZeRO-3 records to know which weights it needs again soon.

DeepSpeed 0.19.8 remembers, for every place of the order, which weights to give back there, and keeps that
when the order itself is recorded anew (an lru_cache in partitioned_param_coordinator.py). With a forward
pass alone before the first step, as the start-up checks and the first validation are, each later step
gave its weights back after the forward pass and gathered them once more for the backward pass.
"""

import inspect
from typing import Any


def forget_order(engine: Any) -> None:
    """Before the first step: its order is recorded, and nothing that was before counts. Nothing without ZeRO-3."""
    offload = getattr(engine.optimizer, "parameter_offload", None)
    if offload is None:
        return
    coordinator = offload.get_param_coordinator()
    if not coordinator.is_invalid_trace():
        coordinator._invalidate_trace()
    decorated = type(coordinator)._PartitionedParameterCoordinator__params_to_release
    inspect.getclosurevars(decorated).nonlocals["func"].cache_clear()
