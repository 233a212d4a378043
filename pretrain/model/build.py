"""The model to train: built under ZeRO-3 so that no rank holds it whole, with its adapters if any."""

import copy
import difflib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.integrations import HfDeepSpeedConfig
from transformers.pytorch_utils import Conv1D

from data_prep.errors import ConfigError, DataError
from data_prep.tokenizer.extension import Extension
from pretrain.config import Model
from pretrain.model.attention import choose
from pretrain.model.base_model import local_folder
from pretrain.model.heap import freed_at_once
from pretrain.model.vocabulary import extend_vocabulary

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def build(
    model: Model,
    config: PretrainedConfig,
    precision: str,
    deepspeed_settings: dict[str, Any],
    seed: int,
    extension: Extension | None = None,
) -> tuple[PreTrainedModel, HfDeepSpeedConfig]:
    """The model in training precision, partitioned under ZeRO-3. Keep the second value as long as the model.

    From scratch, rank 0 draws the weights, so that they depend on `seed` alone and not on the world
    size. (Under a bare deepspeed.zero.Init, transformers would skip its initialisation.) Those of a
    branch are drawn as well: its checkpoint's replace them.
    """
    guard = HfDeepSpeedConfig(deepspeed_settings)
    torch.manual_seed(seed)
    config.dtype = DTYPES[precision]
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    options: dict[str, Any] = {
        "dtype": config.dtype,
        "attn_implementation": choose(model.implementation, device, config),
    }
    with freed_at_once():
        if model.path is None:
            built = AutoModelForCausalLM.from_config(config, **options)
        else:
            folder = local_folder(model.path, model.revision)
            if extension:
                built = _load_extended(folder, config, options, extension)
            else:
                built = _load(folder, config, options)
    if model.lora:
        built = with_adapters(built, model)
    freeze(built, model.freeze)
    return built, guard


def freeze(model: torch.nn.Module, names: list[str]) -> None:
    """Leave the parameters in the modules of these names, `*` for anything, as they are.

    A parameter that a module outside shares, as tied embeddings do, is left as it is there, too. Raises
    ConfigError for a name that no module has, and if nothing would be trained.
    """
    modules = dict(model.named_modules())
    for name in names:
        found = [module for own, module in modules.items() if fnmatchcase(own, name)]
        if not found:
            near = difflib.get_close_matches(name, modules, n=1, cutoff=0.0)
            raise ConfigError(
                f"model.freeze: the model has no module {name}; did you mean {near[0]}?"
            )
        for module in found:
            module.requires_grad_(False)
    if names and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            f"model.freeze: {', '.join(names)} is the whole model; leave something to train"
        )


def _load(folder: Path, config: PretrainedConfig, options: dict[str, Any]) -> Any:
    """The model of a folder; DataError where transformers would draw weights that are missing.

    Under ZeRO-3, transformers (5.23) maps the files on rank 0 alone and spreads them module by module.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, config=config, output_loading_info=True, **options
    )
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise DataError(
            f"model.path: {folder} has no weights for {missing[0]} ({len(missing)} missing); they would "
            "be random: give the whole model"
        )
    return model


def _load_extended(
    folder: Path, config: PretrainedConfig, options: dict[str, Any], extension: Extension
) -> PreTrainedModel:
    own = copy.deepcopy(config)
    own.vocab_size = AutoConfig.from_pretrained(folder).vocab_size
    built = _load(folder, own, options)
    extend_vocabulary(built, extension, config.vocab_size)
    return built


def with_adapters(base: PreTrainedModel, model: Model) -> Any:
    """The base model with LoRA adapters, everything else frozen."""
    from peft import LoraConfig, get_peft_model

    assert model.lora is not None
    transposed = any(isinstance(module, Conv1D) for module in base.modules())  # GPT-2's weights
    settings = LoraConfig(
        fan_in_fan_out=transposed,
        r=model.lora.rank,
        lora_alpha=model.lora.alpha,
        lora_dropout=model.lora.dropout,
        target_modules=model.lora.targets,
        task_type="CAUSAL_LM",
    )
    _check_targets(base, model.lora.targets)
    return get_peft_model(base, settings)


def _check_targets(base: PreTrainedModel, targets: list[str] | str) -> None:
    """Raise ConfigError for a name that no module ends in: peft asks only that one of them fits."""
    names = {name.rpartition(".")[2] for name, _ in base.named_modules()}
    for target in targets if isinstance(targets, list) else []:
        if target.rpartition(".")[2] not in names:
            near = difflib.get_close_matches(target, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"model.lora.targets: the model has no module {target}{hint}")


def parameter_count(model: torch.nn.Module) -> tuple[int, int]:
    """(all, trained) parameters; a ZeRO-3 parameter knows its whole size as ds_numel."""
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)
