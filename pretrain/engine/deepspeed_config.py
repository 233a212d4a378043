"""The effective DeepSpeed settings: the chosen JSON plus the recipe's values.

DeepSpeed's defaults moved between releases (clipping from 0 to 1, overflow checks from off to on), so
every value that touches numerics is written out here, printed and saved with the run.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.errors import ConfigError
from data_prep.files import digest
from pretrain.config import RunConfig, Training
from pretrain.engine.deepspeed_keys import faults

# What the recipe says in its own words.
RECIPES_OWN = ("train_batch_size", "optimizer", "scheduler", "amp", "zero_allow_untested_optimizer")
SECTIONS = ("zero_optimization", "bf16", "fp16", "data_types", "checkpoint")
# How a step is divided and where its parts lie; what they add up to does not change.
LAYOUT = (
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "steps_per_print",
    "wall_clock_breakdown",
    "checkpoint.",
    "zero_optimization.",
    "aio.",
)
# What a JSON may say otherwise: the scaling of the loss in fp16 (DeepSpeed's own figures), and the
# quantised messages of ZeRO++, which change numerics.
CHANGEABLE: dict[str, Any] = {
    "fp16": {
        "loss_scale": 0,  # dynamic
        "initial_scale_power": 16,
        "loss_scale_window": 1000,  # steps without an overflow before it doubles
        "hysteresis": 2,  # overflows before it halves
        "consecutive_hysteresis": False,
        "min_loss_scale": 1,
    },
    "zero_optimization": {
        "zero_quantized_weights": False,
        "zero_quantized_nontrainable_weights": False,
        "zero_quantized_gradients": False,
    },
}


def run_settings(config: RunConfig, world: int, accumulation: int) -> dict[str, Any]:
    """The dict for deepspeed.initialize, checked against the rest of the config and the number of ranks.

    Raises ConfigError naming the file and the key.
    """
    settings = effective_config(config.deepspeed, config.training, accumulation)
    zero = settings["zero_optimization"]
    wrong = [*_unfit_optimizer(config, zero), *_unfit_world(zero, world)]
    if wrong:
        raise ConfigError("\n".join(f"{config.deepspeed}: {line}" for line in wrong))
    # DeepSpeed names its swap files by rank only: two runs would write into each other's.
    own = f"biomed-{digest(str(config.run.resolve()))[:12]}"
    parameters = zero.get("offload_param", {})
    if parameters.get("device") == "nvme":
        place = str(Path(parameters["nvme_path"]) / own)
        zero["offload_param"] = parameters | {"nvme_path": place}
    return settings


def effective_config(path: Path, training: Training, accumulation: int) -> dict[str, Any]:
    """The JSON with the recipe's values; ConfigError where they differ, or a key is none or cannot work."""
    chosen = _read(path)
    wrong = [*faults(chosen), *_conflicts(chosen, recipe_values(training, accumulation))]
    if not wrong:
        wrong = list(_unfit_zero(chosen["zero_optimization"]))
    if wrong:
        raise ConfigError("\n".join(f"{path}: {line}" for line in wrong))
    return _merge(_merge(CHANGEABLE, chosen), recipe_values(training, accumulation))


def recipe_values(training: Training, accumulation: int) -> dict[str, Any]:
    """What the recipe and this project determine."""
    return {
        "train_micro_batch_size_per_gpu": training.micro_batch,
        "gradient_accumulation_steps": accumulation,
        "managed_gradient_accumulation": True,
        "gradient_clipping": training.gradient_clipping,
        "bf16": {
            "enabled": training.precision == "bf16",
            "check_grad_overflow": True,
            "immediate_grad_update": False,
            "bf16_master_weights_and_grads": False,
            "bf16_optimizer_states": False,
        },
        "fp16": {
            "enabled": training.precision == "fp16",
            "auto_cast": False,
            "fp16_master_weights_and_grads": False,
        },
        "torch_autocast": {"enabled": False},
        "data_types": {
            # Sums of bf16 gradients lose their small terms; see pretrain/engine/loss.py for the divisor.
            "grad_accum_dtype": "fp32",
            "keep_in_fp32_modules": "auto",  # the buffers that transformers names, of rotary positions
        },
        "communication_data_type": "fp32",  # left out, gradients would be summed in bf16
        "seq_parallel_communication_data_type": "fp32",
        "gradient_allreduce_op": "mean",
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "disable_allgather": False,
        # Both for pretrain/engine/optimizer.py's Lion.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
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


def offload_device(settings: dict[str, Any]) -> str:
    """Where the optimizer's state and its step are: "none" (on the accelerator) or "cpu"."""
    return settings["zero_optimization"].get("offload_optimizer", {}).get("device", "none")


def _read(path: Path) -> dict[str, Any]:
    try:
        chosen = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"deepspeed: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start}: not UTF-8; save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: line {error.lineno}: not valid JSON ({error.msg})") from error
    if not isinstance(chosen, dict):
        raise ConfigError(f"{path}: expected a JSON object of DeepSpeed's settings")
    for key in SECTIONS:
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
    part = chosen["zero_optimization"].get("offload_param")
    if isinstance(part, dict) and isinstance(part.get("nvme_path"), str):
        part["nvme_path"] = os.path.expandvars(part["nvme_path"])
    return chosen


def _leaves(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, below in value.items():
        if isinstance(below, dict):
            yield from _leaves(below, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", below


def _conflicts(chosen: dict[str, Any], recipe: dict[str, Any]) -> Iterator[str]:
    given = dict(_leaves(chosen))
    for key, value in _leaves(recipe):
        if key in given and given[key] != value:
            yield f"{key}: found {given[key]!r}, the recipe says {value!r}; leave it out of the JSON"


def _merge(chosen: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(chosen)
    for key, value in over.items():
        merged[key] = {**chosen.get(key, {}), **value} if isinstance(value, dict) else value
    return merged


def _unfit_zero(zero: dict[str, Any]) -> Iterator[str]:
    """Settings of ZeRO that cannot work together."""
    stage = zero.get("stage")
    if stage not in (1, 2, 3):
        yield f"zero_optimization.stage: found {stage!r}, expected 1, 2 or 3"
        return
    for key in ("offload_param", "zero_hpz_partition_size", *CHANGEABLE["zero_optimization"]):
        if stage != 3 and zero.get(key) not in (None, False, 1):
            yield (
                f"zero_optimization.{key}: stage {stage} leaves the parameters whole on each rank; "
                "take stage 3, or leave it out"
            )
    if zero.get("zero_hpz_partition_size") == 0:
        yield "zero_optimization.zero_hpz_partition_size: found 0, expected the number of GPUs of a node"
    for key in ("offload_param", "offload_optimizer"):
        yield from _unfit_offload(f"zero_optimization.{key}", zero.get(key, {}))
    on_nvme = zero.get("offload_param", {}).get("device") == "nvme"
    # Measured with 0.19.8: "param 16 already assigned swap buffer id 26" in the second step.
    if on_nvme and zero.get("stage3_prefetch_bucket_size") != 0:
        yield (
            "zero_optimization.stage3_prefetch_bucket_size: DeepSpeed reads a parameter ahead twice from nvme "
            "(0.19.8) and stops; set it to 0"
        )


def _unfit_offload(key: str, offload: dict[str, Any]) -> Iterator[str]:
    device = offload.get("device", "none")
    if device not in ("none", "cpu", "nvme"):
        yield f"{key}.device: found {device!r}, expected none, cpu or nvme"
    if device != "nvme":
        return
    if key.endswith("offload_optimizer"):
        # Measured with 0.19.8: engine.load_checkpoint copies the swap files back and leaves the weights
        # as they were drawn; the losses after a resume are those of a model that was never trained.
        yield (
            f"{key}.device: DeepSpeed does not load a checkpoint of an optimizer on nvme (0.19.8); take cpu "
            "for it (offload_param may be nvme)"
        )
        return
    place = offload.get("nvme_path")
    if place is None:
        yield f"{key}.nvme_path: it is missing; give a folder on a disk of the node, such as $TMPDIR"
    elif "$" in place:
        yield f"{key}.nvme_path: {place} names a variable that is not set; export it, or give a folder"
    elif not (os.path.isdir(place) and os.access(place, os.W_OK)):
        yield f"{key}.nvme_path: {place or 'it'} is no folder that this process may write to"


def _unfit_optimizer(config: RunConfig, zero: dict[str, Any]) -> Iterator[str]:
    """What the optimizer of the recipe cannot do; deepspeed 0.19.8."""
    offloaded = zero.get("offload_optimizer", {})
    name = config.optimizer.name
    if name != "adamw" and offloaded.get("ratio", 1.0) != 1.0:
        yield (
            f"zero_optimization.offload_optimizer.ratio: found {offloaded['ratio']}; DeepSpeed splits "
            f"AdamW's step only; leave it out with optimizer.name: {name}"
        )
    if name != "muon":
        return
    if zero["stage"] != 3 or zero.get("reduce_scatter", True):
        yield (
            "zero_optimization: optimizer.name muon needs stage 3 with reduce_scatter false, which "
            "configs/deepspeed/zero3-muon.json has"
        )
    if offloaded.get("device", "none") != "none":
        yield (
            "zero_optimization.offload_optimizer: optimizer.name muon is not tested with it; take adamw "
            "or lion, or leave it out"
        )
    if config.model.lora:
        yield (
            "optimizer.name: muon orthogonalises whole weights, adapters are none; take adamw or lion with "
            "model.lora"
        )
    if config.training.precision == "fp16":
        yield (
            "training.precision: muon's momentum would be that of gradients scaled by fp16's changing loss scale; "
            "take bf16"
        )
    if config.training.gradient_clipping:
        yield (
            f"training.gradient_clipping: found {config.training.gradient_clipping}; with optimizer.name "
            "muon DeepSpeed would clip the update, which is orthogonal and needs none; set it to 0"
        )


def _unfit_world(zero: dict[str, Any], world: int) -> Iterator[str]:
    size = min(zero.get("zero_hpz_partition_size", 1), world)  # as DeepSpeed takes it
    if world % size:
        yield (
            f"zero_optimization.zero_hpz_partition_size: found {size}, which does not divide the {world} "
            "ranks; give the number of GPUs of a node"
        )
