"""Loading a checkpoint that another number of ranks, or another ZeRO layout, wrote: directly, shard to shard.

Each rank maps the files and copies what it owns now. Nothing is written: no second copy on the disk,
nothing to wait for, nothing that a killed conversion leaves. DeepSpeed's universal checkpoints (0.19.8)
write every parameter out twice more first, and cannot do what is needed here: what is converted from
stage 3 has no shape that stages 1 and 2 can load (a bare tensor where they expect a dict, no `ds_version`)
nor the other way round (no `state`), an optimizer with one moment (Lion) stops the converter, and every
parameter group gets the settings of the first.

The optimizer's settings (rates, betas, weight decay) stay as they are built; its states and step counters come
from the checkpoint, and the training weights are the fp32 weights rounded, as after every step.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from data_prep.errors import DataError
from pretrain.checkpoints.zero_shards import ZeroShards, copy_range

Segment = tuple[str, int, slice]
"""A parameter, its first element that is this rank's, and where its elements lie in a flat tensor."""


def restore(engine: Any, folder: Path) -> None:
    """Give a DeepSpeed engine the weights and optimizer states of a checkpoint; called by all ranks.

    The engine may have trained already (a roll-back). Frozen weights are left as they are. Raises
    DataError where the checkpoint lacks a parameter or a state.
    """
    shards = ZeroShards(folder)
    optimizer = engine.optimizer
    _check_alike(optimizer, shards)
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        _restore_stage3(optimizer, shards)
    else:
        _restore_stage1_2(optimizer, shards)
    _restore_counters(engine, shards)
    dist.barrier()


def _check_alike(optimizer: Any, shards: ZeroShards) -> None:
    now = {
        optimizer.param_names[p]: getattr(p, "ds_numel", p.numel())
        for group in _groups(optimizer)
        for p in group
    }
    saved = {name: shards.numel(name) for name in shards.names}
    odd = sorted(name for name in now.keys() | saved.keys() if now.get(name) != saved.get(name))
    if odd:
        raise DataError(
            f"{shards.folder}: other parameters are trained than when it was written: {odd[0]} has "
            f"{now.get(odd[0], 'no')} elements, not {saved.get(odd[0], 'none')} ({len(odd)} differ); give the "
            "run the model, adapters and frozen modules it began with"
        )


def _groups(optimizer: Any) -> list[list[Any]]:
    """Parameters by flat tensor."""
    for name in ("fp16_groups", "bit16_groups", "bf16_groups"):  # stage 3; 1 and 2; 1 with bf16
        if hasattr(optimizer, name):
            return list(getattr(optimizer, name))
    raise TypeError(f"{type(optimizer).__name__} is no ZeRO optimizer")


def _names(optimizer: Any, group: Iterable[Any]) -> list[str]:
    return [optimizer.param_names[parameter] for parameter in group]


def _restore_stage3(optimizer: Any, shards: ZeroShards) -> None:
    optimizer.checkpoint_event_prologue()  # every parameter is partitioned
    rank, world = dist.get_rank(), dist.get_world_size()
    for number, group in enumerate(optimizer.fp16_groups):
        flat = optimizer.fp32_partitioned_groups_flat[number]
        segments: list[Segment] = []
        offset = 0
        for name, parameter in zip(_names(optimizer, group), group, strict=True):
            whole = parameter.ds_numel
            share = -(-whole // world)
            count = min(share, max(0, whole - rank * share))
            segments.append((name, rank * share, slice(offset, offset + count)))
            offset += share
        _fill(optimizer.optimizer, flat, segments, shards)
        rounded = optimizer.fp16_partitioned_groups_flat[number]
        rounded.data.copy_(flat.data)
        partitions = optimizer.fp16_partitioned_groups[number]
        for partition, values in zip(
            partitions, optimizer.unflatten(rounded, partitions), strict=True
        ):
            partition.data = values.data
    optimizer.checkpoint_event_epilogue()  # gathers those that stay whole


def _restore_stage1_2(optimizer: Any, shards: ZeroShards) -> None:
    bf16 = hasattr(optimizer, "bf16_groups")
    flats = getattr(
        optimizer, "fp32_groups_flat_partition" if bf16 else "single_partition_of_fp32_groups"
    )
    for group, flat in zip(_groups(optimizer), flats, strict=True):
        segments: list[Segment] = []
        for name, parameter in zip(_names(optimizer, group), group, strict=True):
            if (mapping := parameter._hp_mapping) is not None:  # part of it is this rank's
                place = mapping.get_hp_fragment_address()
                within = slice(place.start, place.start + place.numel)
                segments.append((name, mapping.lp_fragment_address.start, within))
        _fill(optimizer.optimizer, flat, segments, shards)
    optimizer._lazy_init_hp_params_optimizer_state()  # as before the first step
    optimizer.update_lp_params()


def _fill(
    optimizer: torch.optim.Optimizer,
    flat: torch.Tensor,
    segments: list[Segment],
    shards: ZeroShards,
) -> None:
    """Fill this rank's flat tensor of one group, and the optimizer's state beside it."""
    flat.data.zero_()  # the padding
    for name, begin, place in segments:
        copy_range(shards.pieces(name), begin, flat.data[place])
    if not segments:
        return
    state = optimizer.state[flat]
    saved = shards.optimizer_state(segments[0][0])
    if not saved:  # stages 1 and 2, before the first step
        state.clear()
        return
    if missing := sorted(state.keys() - saved.keys()):
        raise DataError(
            f"{shards.folder}: was written by an optimizer without {missing[0]}; choose the optimizer "
            "that the run had, or train on from its exported weights"
        )
    for key, value in saved.items():
        if torch.is_tensor(value) and value.dim():
            if key not in state:  # stages 1 and 2 make it in the first step
                state[key] = torch.zeros_like(flat, dtype=value.dtype)
            for name, begin, place in segments:
                copy_range(shards.pieces(name, key), begin, state[key][place])
        else:
            state[key] = _as_counted(optimizer, value, flat) if key == "step" else value


def _as_counted(optimizer: torch.optim.Optimizer, value: Any, flat: torch.Tensor) -> Any:
    """A step counter in the form that this optimizer counts: torch's own in a tensor, DeepSpeed's in a number."""
    if not type(optimizer).__module__.startswith("torch."):
        return int(value)
    fused = optimizer.param_groups[0].get("fused") or optimizer.param_groups[0].get("capturable")
    return torch.tensor(float(value), device=flat.device if fused else "cpu")


def _restore_counters(engine: Any, shards: ZeroShards) -> None:
    """DeepSpeed's own: completed and skipped steps, and the loss scale of fp16."""
    first = shards.model_state
    engine.global_steps, engine.skipped_steps = first["global_steps"], first["skipped_steps"]
    engine.global_samples = engine.global_steps * engine.train_batch_size()
    saved, optimizer = shards.states[0], engine.optimizer
    if saved.get("dynamic_loss_scale") and getattr(optimizer, "dynamic_loss_scale", False):
        optimizer.loss_scaler = saved["loss_scaler"]
