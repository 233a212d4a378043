"""The model to train: built under ZeRO-3 so that no rank holds it whole, with its adapters if any."""

import copy
import difflib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.integrations import HfDeepSpeedConfig
from transformers.pytorch_utils import Conv1D

from data_prep.errors import ConfigError, DataError
from data_prep.files import digest, sha256_file
from data_prep.shards.manifest import Manifest
from data_prep.tokenizer.extension import Extension
from pretrain.config import Model
from pretrain.vocabulary import extend_vocabulary

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
# transformers' names for the longest sequence, in the order in which they are looked up.
POSITION_KEYS = ("n_positions", "max_position_embeddings")


def model_config(
    model: Model, shards: Manifest, extension: Extension | None = None
) -> PretrainedConfig:
    """transformers' config of the model, checked against the shards it will be trained on.

    With an extension of its tokenizer, its vocabulary is the extended one.
    """
    config = _from_scratch(model.config, shards) if model.config else _of_existing(model)
    vocabulary_size, sequence_length = shards.vocabulary_size, shards.sequence_length
    longest = next((getattr(config, key) for key in POSITION_KEYS if hasattr(config, key)), None)
    if longest is not None and longest < sequence_length:
        raise ConfigError(
            f"model: it has {longest} positions, the shards' sequences have {sequence_length} tokens; "
            "build the shards shorter or take a model that is long enough"
        )
    if extension:
        if model.lora:
            raise ConfigError(
                "model.lora: the shards' tokenizer extends the model's, and adapters would leave the new "
                "embeddings as they begin; train the whole model first and put adapters on its export"
            )
        config.vocab_size = max(config.vocab_size, vocabulary_size)
    if config.vocab_size < vocabulary_size:
        raise ConfigError(
            f"model: its vocabulary has {config.vocab_size} entries, the shards' tokenizer has "
            f"{vocabulary_size}; build the shards with the model's own tokenizer, or with an extension of the "
            "one in its folder"
        )
    return config


def _from_scratch(settings: dict[str, Any], shards: Manifest) -> PretrainedConfig:
    chosen = dict(settings)
    model_type = chosen.pop("model_type")
    try:
        known = set(AutoConfig.for_model(model_type).to_dict())
    except ValueError as error:
        raise ConfigError(
            f"model.config.model_type: found {model_type!r}, expected a model type of transformers, "
            "such as gpt2 or llama"
        ) from error
    unknown = sorted(set(chosen) - known)
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"model.config.{unknown[0]}: {model_type} has no such setting{hint}")
    tokens = {"bos_token_id": shards.begin_id, "eos_token_id": shards.end_id}
    tokens |= {"pad_token_id": shards.pad_id, "vocab_size": shards.vocabulary_size}
    try:
        return AutoConfig.for_model(model_type, **(tokens | chosen))
    except Exception as error:  # its validators raise classes of their own
        reason = " ".join(str(error).split())
        raise ConfigError(f"model.config: {model_type} refuses it: {reason}") from error


def _of_existing(model: Model) -> PretrainedConfig:
    assert model.path is not None  # pydantic has checked it
    try:
        return AutoConfig.from_pretrained(
            local_folder(model.path, model.revision), trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"model.path: cannot load a model from {model.path}: {reason}") from error


def local_folder(path: str, revision: str | None = None) -> Path:
    """The folder of a model: the path itself, or the download of a hub name."""
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or path.startswith(".") or path.count("/") > 1:
        raise ConfigError(f"model.path: found no folder {path}; give a folder or a hub name")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, revision=revision, ignore_patterns=["*.bin", "*.h5"]))
    except Exception as error:  # the hub client has a dozen classes for "not there"
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"model.path: {path} is neither a local folder nor to be had from the hub: {reason}"
        ) from error


def weights_hash(folder: Path) -> str:
    """Hash of a model folder's config and weights, whatever the folder is called."""
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    if not weights or not (folder / "config.json").exists():
        raise DataError(
            f"{folder}: found no config.json with weights (*.safetensors); it is no model's folder"
        )
    files = sorted([*weights, folder / "config.json"])
    return digest({path.name: sha256_file(path) for path in files})


def build(
    model: Model,
    config: PretrainedConfig,
    precision: str,
    deepspeed_settings: dict[str, Any],
    seed: int,
    extension: Extension | None = None,
) -> tuple[PreTrainedModel, HfDeepSpeedConfig]:
    """The partitioned model in training precision. Keep the second value alive as long as the model.

    From scratch, rank 0 draws the weights, so that they depend on `seed` alone and not on the world
    size. (Under a bare deepspeed.zero.Init, transformers would skip its initialisation.)
    """
    guard = HfDeepSpeedConfig(deepspeed_settings)
    torch.manual_seed(seed)
    options: dict[str, Any] = {
        "dtype": DTYPES[precision],
        "attn_implementation": model.implementation,
    }
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
    return built, guard


def _load(folder: Path, config: PretrainedConfig, options: dict[str, Any]) -> Any:
    """The model of a folder; DataError where transformers would draw weights that are missing."""
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
