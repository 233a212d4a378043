"""The config of the model to train, checked before any weight exists."""

import difflib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from data_prep.errors import ConfigError
from data_prep.shards.manifest import Manifest
from data_prep.tokenizer.extension import Extension
from pretrain.config import Model
from pretrain.model.base_model import local_folder

# transformers' names for the longest sequence, in the order in which they are looked up.
POSITION_KEYS = ("n_positions", "max_position_embeddings")
# transformers' common names of what must be a number above 0, where a model has it.
SIZE_KEYS = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
)


def model_config(
    model: Model,
    shards: Manifest,
    extension: Extension | None = None,
    of_branch: Path | None = None,
) -> PretrainedConfig:
    """transformers' config of the model, checked against the shards it will be trained on.

    With an extension of its tokenizer, its vocabulary is the extended one. `of_branch`: the folder of a
    branch's config, by pretrain.checkpoints.branch.model_folder.
    """
    scratch = model.config
    config = _from_scratch(scratch, shards) if scratch else _of_existing(model, of_branch)
    if model.dropout is not None:
        _set_dropout(config, model.dropout)
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
        default = AutoConfig.for_model(model_type)
    except ValueError as error:
        raise ConfigError(
            f"model.config.model_type: found {model_type!r}, expected a model type of transformers, "
            "such as gpt2 or llama"
        ) from error
    if type(default) not in AutoModelForCausalLM._model_mapping:
        raise ConfigError(
            f"model.config.model_type: {model_type} does not predict the next token; take one that does, "
            "such as gpt2 or llama"
        )
    known = set(default.to_dict())
    unknown = sorted(set(chosen) - known)
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"model.config.{unknown[0]}: {model_type} has no such setting{hint}")
    _check_sizes(chosen, default)
    tokens = {"bos_token_id": shards.begin_id, "eos_token_id": shards.end_id}
    tokens |= {"pad_token_id": shards.pad_id, "vocab_size": shards.vocabulary_size}
    try:
        config = AutoConfig.for_model(model_type, **(tokens | chosen))
        _check_heads(config)
        with torch.device("meta"):  # a model without weights: about a second for the largest
            AutoModelForCausalLM.from_config(config)
    except ConfigError:
        raise
    except Exception as error:  # validators and modules raise whatever occurs to them
        reason = " ".join(str(error).split())
        if isinstance(error, KeyError):
            reason = f"it does not know {reason}"
        raise ConfigError(f"model.config: {model_type} refuses it: {reason}") from error
    return config


def _own_key(config: PretrainedConfig, key: str) -> str:
    """The architecture's own name of what transformers calls `key` in all of them."""
    return config.attribute_map.get(key, key)


def _check_sizes(chosen: dict[str, Any], default: PretrainedConfig) -> None:
    """Raise ConfigError for a size that is no number above 0, before transformers divides by it."""
    for name in SIZE_KEYS:
        key = _own_key(default, name)
        value = chosen.get(key)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or value < 1
        ):
            raise ConfigError(f"model.config.{key}: found {value!r}, expected a number above 0")


def _check_heads(config: PretrainedConfig) -> None:
    """Raise ConfigError where the heads do not divide the width, or one another."""
    heads, width = (_own_key(config, key) for key in ("num_attention_heads", "hidden_size"))
    if hasattr(config, heads) and not hasattr(config, "head_dim"):
        _check_divides(config, width, heads)
    if getattr(config, "num_key_value_heads", None) is not None:
        _check_divides(config, heads, "num_key_value_heads")


def _check_divides(config: PretrainedConfig, whole: str, part: str) -> None:
    values = getattr(config, whole), getattr(config, part)
    if values[0] % values[1]:
        raise ConfigError(
            f"model.config.{whole}: found {values[0]}, which {part} ({values[1]}) does not divide; "
            "give a multiple of it"
        )


def _of_existing(model: Model, of_branch: Path | None) -> PretrainedConfig:
    if of_branch:
        key, name, folder = "model.branch.run", str(of_branch.parent), of_branch
    else:
        assert model.path is not None  # pydantic has checked it
        key, name = "model.path", model.path
        folder = local_folder(model.path, model.revision)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{key}: cannot load a model from {name}: {reason}") from error


def _set_dropout(config: PretrainedConfig, rate: float) -> None:
    """Set every dropout rate of the language model; ConfigError where the architecture has none."""
    keys = [
        key
        for key, value in config.to_dict().items()
        if ("dropout" in key or key.endswith("_pdrop"))
        # of heads for other tasks
        and not key.startswith(("classifier_", "summary_"))
        and isinstance(value, int | float)
    ]
    if not keys:
        raise ConfigError(
            f"model.dropout: found {rate}, but {config.model_type} has no dropout; leave it out"
        )
    for key in keys:
        setattr(config, key, rate)
