"""What a run says of itself before its first step."""

import math
import shutil
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig

from pretrain.config import RunConfig
from pretrain.model.attention import BY_BORDERS
from pretrain.model.build import parameter_count
from pretrain.order.share import rank_share
from pretrain.plan import Plan, rows_of_epoch
from pretrain.watch.flops import Speed, flops_per_token, peak_flops
from pretrain.watch.memory import Memory, device_memory, estimate

# A model that is trained on with fewer tokens a step came to babble (reference: Lightning-AI/litgpt#1517).
LEAST_BATCH_TOKENS = 250_000
# Between llm-foundry's published 46 % of an H100 for 3B and 7B, and what smaller models and batches reach.
USUAL_MFU = 0.4
DAY_S = 86400


@dataclass(frozen=True)
class Built:
    """What shows only when the model is built and the device is there."""

    model: PretrainedConfig
    parameters: int
    trained_parameters: int
    attention: str  # the implementation that was chosen
    memory: Memory  # the estimate for a rank
    device: str  # its name
    device_memory: int | None  # bytes, where the rank has them for itself
    speed: Speed


def look_at(module: Any, config: RunConfig, plan: Plan, device: torch.device, ranks: int) -> Built:
    """Of the built model `module`, which `ranks` ranks train on devices like this one."""
    model, length = module.config, plan.manifest.sequence_length
    parameters, trained = parameter_count(module)
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else "CPU"
    peak = peak_flops(name, config.training.precision)
    memory = estimate(
        config,
        plan.deepspeed_settings,
        model,
        parameters,
        trained,
        ranks,
        plan.share.micro_batch,
        length,
    )
    return Built(
        model,
        parameters,
        trained,
        model._attn_implementation,
        memory,
        name,
        device_memory(device),
        Speed(flops_per_token(module, model, length), None if peak is None else peak * ranks),
    )


def report_facts(
    config: RunConfig, plan: Plan, built: Built, ranks: int, step: int
) -> dict[str, Any]:
    """Name: value of what is worth reading before the wait; `step`: how many lie behind."""
    length = plan.manifest.sequence_length
    batch = plan.order.global_batch_at(step)
    sources = {
        name: f"{rows_of_epoch(shards):,} sequences, weight {config.data.train[name].weight}"
        for name, shards in plan.train.items()
    }
    left = (plan.order.sequences(plan.steps) - plan.order.sequences(step)) * length
    return {
        "model": f"{built.model.model_type}, {config.training.precision}",
        "parameters": built.parameters,
        "trained parameters": built.trained_parameters,
        **sources,
        "batch": f"{batch} sequences x {length} tokens = {batch * length:,} tokens a step",
        "other phases": ", ".join(f"from step {phase.from_step}" for phase in config.phases)
        or "none",
        "ranks": _division(config, batch, ranks),
        "device": built.device,
        "memory of a rank": _memory(built),
        "ZeRO": _zero(plan.deepspeed_settings["zero_optimization"]),
        "optimizer": f"{config.optimizer.name}, learning rate {config.optimizer.learning_rate:g}, "
        f"{config.schedule.name}",
        "steps": plan.steps,
        "tokens to see": left,
        "time to go": _time(left, built.speed),
        "attention": f"stays inside each {config.data.attention} (tested on this model), "
        f"{built.attention}",
        "dropout": "seeded by step and rank: other ranks or micro-batches draw it otherwise"
        if _has_dropout(config, built.model)
        else "none",
        "free disk": f"{shutil.disk_usage(config.run).free / 1e9:,.1f} GB",
        "goes on from": f"step {step}" if step else "the beginning",
    }


def report_warnings(
    config: RunConfig, plan: Plan, built: Built, ranks: int, step: int
) -> list[str]:
    """A line for each thing that may come to disappoint."""
    lines = []
    needed = sum(built.memory.device.values())
    if built.device_memory is not None and needed > built.device_memory:
        lines.append(
            f"warning: a rank needs about {needed / 1e9:.0f} GB, its {built.device} has "
            f"{built.device_memory / 1e9:.0f} GB; more ranks, a smaller training.micro_batch, "
            "training.activation_checkpointing or configs/deepspeed/zero3-offload.json need less"
        )
    length = plan.manifest.sequence_length
    tokens = plan.order.global_batch_at(step) * length
    goes_on = config.model.config is None and not plan.manifest.has_loss_mask
    if goes_on and tokens < LEAST_BATCH_TOKENS:
        lines.append(
            f"warning: {tokens:,} tokens a step are few to go on with a model, which may forget what it "
            f"knew; raise training.global_batch to {math.ceil(LEAST_BATCH_TOKENS / length):,} "
            f"sequences ({LEAST_BATCH_TOKENS:,} tokens), or watch a validation set of general text"
        )
    batch, there = plan.order.global_batch_at(step), sum(map(rows_of_epoch, plan.train.values()))
    if batch > there:
        lines.append(
            f"warning: a step reads {batch:,} sequences, and data.train has {there:,}: some are read more than "
            "once; lower training.global_batch, or give more"
        )
    zero = plan.deepspeed_settings["zero_optimization"]
    hpz = zero.get("zero_hpz_partition_size", 1)
    if hpz >= ranks > 1:
        lines.append(
            f"warning: zero_hpz_partition_size is {hpz}, and there are {ranks} ranks: plain ZeRO-3, with a second "
            "copy of the weights; set it to the GPUs of a node, or take zero3.json"
        )
    lines += [
        f"warning: phases.{place}.from_step is {phase.from_step}, and the run ends after {plan.steps} steps: "
        "that phase never begins"
        for place, phase in enumerate(config.phases)
        if phase.from_step >= plan.steps
    ]
    hang = config.guard.hang_minutes
    if hang is not None and hang >= config.timeout_minutes:
        lines.append(
            f"warning: guard.hang_minutes is {hang:g}, but a collective operation fails after "
            f"timeout_minutes, {config.timeout_minutes:g}: without stacks and as an error; make it the larger"
        )
    masked = config.data.attention == "document" or built.attention == "eager"
    if built.device_memory is not None and built.attention not in BY_BORDERS and masked:
        lines.append(
            f"warning: attention by {built.attention} makes a mask of {length} x {length} for each sequence; "
            "model.implementation: varlen needs none, or says what is in its way"
        )
    if built.speed.peak is None and built.device_memory is not None:
        lines.append(
            f"the peak of {built.device} in {config.training.precision} is not known here: no mfu "
            "in metrics.jsonl (pretrain/watch/flops.py)"
        )
    return lines


def _division(config: RunConfig, batch: int, ranks: int) -> str:
    sharing = config.training.sequence_parallel
    share = rank_share(batch, ranks // sharing, config.training.micro_batch)
    together = f", {sharing} together," if sharing > 1 else ","
    return (
        f"{ranks}{together} each {share.rows} sequences in {share.accumulation} micro-batches of "
        f"{share.micro_batch}"
    )


def _memory(built: Built) -> str:
    device, host = built.memory.device, built.memory.host
    of = "" if built.device_memory is None else f" of {built.device_memory / 1e9:.1f}"
    parts = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in device.items() if size)
    on_host = f"; {sum(host.values()) / 1e9:.1f} GB on the host" if host else ""
    return f"about {sum(device.values()) / 1e9:.1f}{of} GB ({parts}){on_host}"


def _zero(zero: dict[str, Any]) -> str:
    places = {
        what: zero.get(key, {}).get("device", "none")
        for what, key in (("optimizer", "offload_optimizer"), ("weights", "offload_param"))
    }
    offloaded = [f"{what} on {place}" for what, place in places.items() if place != "none"]
    return ", ".join([f"stage {zero['stage']}", *offloaded])


def _time(tokens: int, speed: Speed) -> str:
    if speed.flops_per_token is None or speed.peak is None:
        return "shown after the first steps"
    days = tokens * speed.flops_per_token / (USUAL_MFU * speed.peak) / DAY_S
    return f"about {days:,.1f} days, if the MFU is {USUAL_MFU:.0%}"


def _has_dropout(config: RunConfig, model: PretrainedConfig) -> bool:
    rates = [
        value
        for key, value in model.to_dict().items()
        if ("pdrop" in key or "dropout" in key) and "summary" not in key
    ]
    if config.model.lora:
        rates.append(config.model.lora.dropout)
    return any(isinstance(rate, float) and rate > 0 for rate in rates)
