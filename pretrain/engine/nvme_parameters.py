"""Loading a checkpoint into parameters that lie on NVMe, which DeepSpeed 0.19.8 saves and cannot load.

Its ZeRO-3 copies each loaded fp32 group to where the group's parameters lie flat in memory, and ends with
"'NoneType' object has no attribute 'data'" for a group that lies on disk. Its step writes such groups; so
does this.
"""

import types
from typing import Any


def let_checkpoints_load(engine: Any) -> None:
    """To be called after deepspeed.initialize; without parameters on NVMe it does nothing."""
    optimizer = engine.optimizer
    if getattr(optimizer, "params_in_nvme_and_cpu", False):
        optimizer._rigid_load_state_dict = types.MethodType(_load, optimizer)


def _load(optimizer: Any, state: dict[str, Any], load_optimizer_states: bool = True) -> None:
    """What DeepSpeedZeroOptimizer_Stage3._rigid_load_state_dict does, group by group as its step does."""
    optimizer.loss_scaler = state["loss_scaler"]
    optimizer.dynamic_loss_scale = state["dynamic_loss_scale"]
    optimizer.overflow = state["overflow"]
    if load_optimizer_states:
        optimizer._set_fp32_optimizer_param_groups()
        optimizer.optimizer.load_state_dict(state["optimizer_state_dict"])
        optimizer._clear_fp32_optimizer_param_groups()
    pairs = zip(optimizer.fp32_partitioned_groups_flat, state["fp32_flat_groups"], strict=True)
    for group, (own, saved) in enumerate(pairs):
        own.data.copy_(saved.data)
        optimizer._reassign_or_swap_out_partitioned_parameters(group)
