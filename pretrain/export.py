"""A checkpoint as a Hugging Face folder: safetensors, config, tokenizer, generation config.

The trained module is transformers' own class, so no weight is renamed; a tied output head is saved
once and tied again by whoever loads it.
"""

from pathlib import Path
from typing import Any

import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from data_prep.config_file import load_config
from data_prep.errors import ConfigError, DataError
from data_prep.files import folder_atomically, read_json, write_json
from data_prep.shards.manifest import TOKENIZER_FOLDER
from data_prep.shards.reader import ShardSet
from pretrain.checkpoint import name_of, saved_steps
from pretrain.config import RunConfig
from pretrain.export_config import ExportConfig
from pretrain.model import POSITION_KEYS, local_folder, with_adapters
from pretrain.plan import check_tokenizer
from pretrain.vocabulary import extend_vocabulary


def export(config: ExportConfig) -> Path:
    """Write the folder; it appears whole or not at all. Raises DataError where weights are missing."""
    if config.output.is_dir() and any(config.output.iterdir()):
        raise ConfigError(f"output: {config.output} is not empty; name a new folder, or remove it")
    run = _run_config(config.run)
    shards = ShardSet(next(iter(run.data.train.values())).path)
    model = _module(run, config.run, shards)
    if config.step != 0:
        checkpoint = _checkpoint(config)
        weights = get_fp32_state_dict_from_zero_checkpoint(
            str(checkpoint.parent),
            tag=checkpoint.name,
            exclude_frozen_parameters=run.model.lora is not None,
        )
        model = _with_weights(model, dict(weights), run.model.lora is not None)
    if run.model.lora and config.merge:
        model = model.merge_and_unload()
    model = model.to(getattr(torch, config.dtype))
    with folder_atomically(config.output) as partial:
        model.save_pretrained(partial)
        for name in shards.manifest.tokenizer:
            (partial / name).write_bytes(shards.content(f"{TOKENIZER_FOLDER}/{name}"))
        _generation(shards).save_pretrained(partial)
        _complete_tokenizer(partial, model.config)
        for path in partial.iterdir():  # safetensors writes for its owner alone
            path.chmod(0o644)
    return config.output


def _run_config(run: Path) -> RunConfig:
    if not (run / "config.yaml").exists():
        raise ConfigError(f"run: {run} holds no config.yaml; give the folder of a training run")
    return load_config(RunConfig, run / "config.yaml")


def _checkpoint(config: ExportConfig) -> Path:
    folder = config.run / "checkpoints"
    steps = saved_steps(folder)
    if not steps:
        raise DataError(f"run: {config.run} has no whole checkpoint yet")
    step = steps[0] if config.step is None else config.step
    if step not in steps:
        raise ConfigError(f"step: found {step}, expected one of {', '.join(map(str, steps))}")
    return folder / name_of(step)


def _module(run: RunConfig, folder: Path, shards: ShardSet) -> Any:
    """The module as it was before training: the base model, or a fresh draw of random weights."""
    if run.model.path is None:
        torch.manual_seed(run.seed)
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder / "model"))
    base = local_folder(run.model.path, run.model.revision)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    extension = check_tokenizer(shards, base)
    if extension:
        size = AutoConfig.from_pretrained(folder / "model").vocab_size
        extend_vocabulary(model, extension, size)
    return with_adapters(model, run.model) if run.model.lora else model


def _with_weights(model: Any, weights: dict[str, torch.Tensor], only_trained: bool) -> Any:
    expected = {name for name, p in model.named_parameters() if p.requires_grad or not only_trained}
    missing = sorted(expected - weights.keys())
    if missing:
        raise DataError(f"the checkpoint has no weights for {missing[0]} ({len(missing)} missing)")
    model.load_state_dict(weights, strict=False)
    if isinstance(model, PreTrainedModel):
        model.tie_weights()
    return model


def _complete_tokenizer(folder: Path, config: Any) -> None:
    """Tell the tokenizer what the model knows: how long a text may be, and what pads a batch."""
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.exists() else {}
    longest = next((getattr(config, key) for key in POSITION_KEYS if hasattr(config, key)), None)
    settings |= {"model_max_length": longest} if longest else {}
    if settings.get("eos_token"):
        settings.setdefault("pad_token", settings["eos_token"])
    write_json(path, settings)


def _generation(shards: ShardSet) -> GenerationConfig:
    manifest = shards.manifest
    return GenerationConfig(
        bos_token_id=manifest.begin_id, eos_token_id=manifest.end_id, pad_token_id=manifest.pad_id
    )
