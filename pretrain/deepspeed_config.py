"""The effective DeepSpeed settings: the chosen JSON plus the recipe's values.

DeepSpeed's defaults moved between releases (clipping from 0 to 1, overflow checks from off to on), so
every value that touches numerics is written out here, printed and saved with the run.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.errors import ConfigError
from pretrain.config import Training

# What the recipe says in its own words.
RECIPES_OWN = ("train_batch_size", "optimizer", "scheduler", "amp", "zero_allow_untested_optimizer")
# How a step is divided and where its parts lie; what they add up to does not change.
LAYOUT = (
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "steps_per_print",
    "wall_clock_breakdown",
    "checkpoint.",
    "zero_optimization.",
)


def effective_config(path: Path, training: Training, accumulation: int) -> dict[str, Any]:
    """The dict for deepspeed.initialize; ConfigError where JSON and recipe differ on a value."""
    chosen = _read(path)
    result = _merge(chosen, recipe_values(training, accumulation), path)
    stage = result["zero_optimization"].get("stage")
    if stage != 3:
        raise ConfigError(f"{path}: zero_optimization.stage: found {stage!r}, expected 3")
    return result


def recipe_values(training: Training, accumulation: int) -> dict[str, Any]:
    """What the recipe and this project determine."""
    return {
        "train_micro_batch_size_per_gpu": training.micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": training.gradient_clipping,
        "bf16": {"enabled": training.precision == "bf16", "check_grad_overflow": True},
        "fp16": {"enabled": False},
        # Sums of bf16 gradients lose their small terms; see pretrain/loss.py for the divisor.
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",  # left out, gradients would be summed in bf16
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "steps_per_print": 1_000_000_000,  # the trainer reports by itself
        "wall_clock_breakdown": False,
        "checkpoint": {"tag_validation": "Fail"},
    }


def decisive_leaves(settings: dict[str, Any]) -> dict[str, Any]:
    """Dotted key: value of the settings that change numerics, whatever the number of ranks."""
    return {
        f"deepspeed.{key}": value
        for key, value in _leaves(settings)
        if not key.startswith(LAYOUT) or "quantized" in key
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        chosen = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"deepspeed: cannot read {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: line {error.lineno}: not valid JSON ({error.msg})") from error
    if not isinstance(chosen, dict):
        raise ConfigError(f"{path}: expected a JSON object of DeepSpeed's settings")
    for key in ("zero_optimization", "bf16", "fp16", "data_types", "checkpoint"):
        if not isinstance(chosen.setdefault(key, {}), dict):
            raise ConfigError(
                f"{path}: {key}: found {chosen[key]!r}, expected an object of settings"
            )
    for key in RECIPES_OWN:
        if key in chosen:
            raise ConfigError(
                f"{path}: {key}: leave it out; the recipe says it (see docs/architecture.md)"
            )
    auto = [key for key, value in _leaves(chosen) if value == "auto"]
    if auto:
        raise ConfigError(
            f"{path}: {auto[0]}: found 'auto'; leave it out, the recipe's value is used"
        )
    return chosen


def _leaves(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, below in value.items():
        if isinstance(below, dict):
            yield from _leaves(below, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", below


def _merge(chosen: dict[str, Any], recipe: dict[str, Any], path: Path) -> dict[str, Any]:
    given = dict(_leaves(chosen))
    conflicts = [
        f"{path}: {key}: found {given[key]!r}, the recipe says {value!r}; leave it out of the JSON"
        for key, value in _leaves(recipe)
        if key in given and given[key] != value
    ]
    if conflicts:
        raise ConfigError("\n".join(conflicts))
    merged = dict(chosen)
    for key, value in recipe.items():
        merged[key] = {**chosen.get(key, {}), **value} if isinstance(value, dict) else value
    return merged
