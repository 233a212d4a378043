"""What a run says of itself before its first step."""

from typing import Any

from transformers import PretrainedConfig

from pretrain.config import RunConfig
from pretrain.plan import Plan, rows_of_epoch
from pretrain.share import rank_share


def start_facts(
    config: RunConfig,
    plan: Plan,
    model: PretrainedConfig,
    parameters: int,
    trained_parameters: int,
    world: int,
    step: int,
) -> dict[str, Any]:
    """Name: value of what is worth reading before the wait; `step`: how many lie behind."""
    length = plan.manifest.sequence_length
    batch = plan.order.global_batch_at(step)
    sources = {
        name: f"{rows_of_epoch(shards):,} sequences, weight {config.data.train[name].weight}"
        for name, shards in plan.train.items()
    }
    return {
        "model": f"{model.model_type}, {config.training.precision}",
        "parameters": parameters,
        "trained parameters": trained_parameters,
        **sources,
        "batch": f"{batch} sequences x {length} tokens = {batch * length:,} tokens a step",
        "other phases": ", ".join(f"from step {phase.from_step}" for phase in config.phases)
        or "none",
        "ranks": _division(config, batch, world),
        "steps": plan.steps,
        "tokens to see": plan.order.sequences(plan.steps) * length,
        "attention": f"stays inside each {config.data.attention} (tested on this model)",
        "dropout": "seeded by step and rank: only the same number of ranks draws it alike"
        if _has_dropout(config, model)
        else "none",
        "goes on from": f"step {step}" if step else "the beginning",
    }


def _division(config: RunConfig, batch: int, world: int) -> str:
    share = rank_share(batch, world, config.training.micro_batch)
    return (
        f"{world}, each {share.rows} sequences in {share.accumulation} micro-batches of "
        f"{share.micro_batch}"
    )


def _has_dropout(config: RunConfig, model: PretrainedConfig) -> bool:
    rates = [
        value
        for key, value in model.to_dict().items()
        if ("pdrop" in key or "dropout" in key) and "summary" not in key
    ]
    if config.model.lora:
        rates.append(config.model.lora.dropout)
    return any(isinstance(rate, float) and rate > 0 for rate in rates)
