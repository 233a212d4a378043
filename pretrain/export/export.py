"""A checkpoint as a Hugging Face folder: safetensors, config, tokenizer, generation config, model card.

The trained module is transformers' own class, so no weight is renamed; a tied output head is left out
and tied again by whoever loads it. Weights go from the checkpoint's files to the folder's one tensor at
a time: memory depends on the largest tensor, not on the model.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig

from data_prep.errors import ConfigError, DataError, ProjectError
from data_prep.files import folder_atomically, read_json, sha256_file
from data_prep.progress import follow, followed
from data_prep.shards.reader import ShardSet
from pretrain.checkpoints.names import MANIFEST, STATE
from pretrain.export.config import ExportConfig
from pretrain.export.lazy_weights import LazyTensor
from pretrain.export.model_card import read_evaluation, read_facts, render_card
from pretrain.export.safetensors_files import needed_memory, stored_bytes, write_weights
from pretrain.export.source import source_of
from pretrain.export.tokenizer_files import write_tokenizer
from pretrain.export.weights import meta_model, model_weights, write_adapter
from pretrain.model.build import DTYPES, parameter_count
from pretrain.scoring.probe import compare, probe_folder
from pretrain.watch.display import say

GB = 1_000_000_000


def export(config: ExportConfig) -> Path:
    """Write the folder; it appears whole or not at all.

    Raises DataError where weights are missing, or where what was written does not say what the trained
    model said; ProjectError where the disk is too small.
    """
    run, checkpoint = source_of(config)
    if not config.merge and not run.model.lora:
        raise ConfigError(
            f"merge: the run in {config.run} has no adapters (model.lora), so nothing can be left unmerged; "
            "leave merge out"
        )
    if config.evaluation:
        read_evaluation(config.evaluation)  # a mistake shows before the work
    shards = ShardSet(next(iter(run.data.train.values())).path)
    state = read_json(checkpoint / STATE) if checkpoint else {}
    if checkpoint and config.check:
        _check_sums(checkpoint)
    model = meta_model(AutoConfig.from_pretrained(config.run / "model"))
    dtype = getattr(torch, config.dtype)
    alone = run.model.lora is not None and not config.merge
    _remove_leftovers(config.output)
    with folder_atomically(config.output) as partial:
        if alone:
            write_adapter(partial, run, checkpoint, model, dtype)
        else:
            weights = model_weights(run, checkpoint, model, shards)
            _write_model(partial, model, weights, dtype, config.shard_gb)
        write_tokenizer(partial, shards, model.config)
        _generation(shards).save_pretrained(partial)
        if config.check and checkpoint and not alone:
            _check_answers(partial, state, DTYPES[run.training.precision], dtype)
        facts = read_facts(
            config, run, checkpoint, state, type(model).__name__, parameter_count(model)[0]
        )
        (partial / "README.md").write_text(render_card(facts), encoding="utf-8")
        for path in partial.iterdir():  # safetensors writes for its owner alone
            path.chmod(0o644)
    return config.output


def _check_sums(checkpoint: Path) -> None:
    files = read_json(checkpoint / MANIFEST)
    total = (len(files), sum(about["bytes"] for about in files.values()))
    for name, about in followed(
        f"checking {checkpoint.name}", files.items(), total, lambda file: file[1]["bytes"]
    ):
        path = checkpoint / name
        if not path.exists() or sha256_file(path) != about["sha256"]:
            raise DataError(
                f"{path}: missing, or not what was written (SHA-256); restore it from a copy, or name "
                "another step"
            )


def _remove_leftovers(output: Path) -> None:
    """What killed exports to the same folder left half-written, which may be large."""
    for path in output.parent.glob(f".{output.name}.*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def _write_model(
    folder: Path,
    model: Any,
    weights: dict[str, LazyTensor],
    dtype: torch.dtype,
    shard_gb: float,
) -> None:
    size = sum(stored_bytes(tensor, dtype) for tensor in weights.values())
    free = shutil.disk_usage(folder).free
    count = sum(tensor.numel for tensor in weights.values())
    memory = needed_memory(list(weights.values()), dtype)
    say(
        f"{count:,} weights, {size / GB:.2f} GB on disk ({free / GB:.2f} GB free); needs "
        f"{memory / GB:.2f} GB of memory beside the programs"
    )
    if free < size:
        raise ProjectError(
            f"output: {folder.parent} has {free / GB:.2f} GB free, the model needs {size / GB:.2f} GB; "
            "free space, or give another folder"
        )
    done = [0, 0]

    def written(amount: int) -> None:
        done[0] += 1
        done[1] += amount

    with follow("writing", (len(weights), size), lambda: (done[0], done[1])):
        write_weights(folder, weights, dtype, int(shard_gb * GB), written)
    model.config.architectures = [type(model).__name__]
    model.config.dtype = dtype
    model.config.save_pretrained(folder)


def _check_answers(
    folder: Path, state: dict[str, Any], computed_in: torch.dtype, dtype: torch.dtype
) -> None:
    """Compare what the exported model says with what the engine said when the checkpoint was written."""
    expected = state.get("probe")
    if not expected:
        say("not compared with the engine: the checkpoint has no probe, as older ones have none")
        return
    coarser = min(computed_in, dtype, key=lambda one: -torch.finfo(one).eps)
    moved = compare(probe_folder(folder), expected, coarser)
    say(f"compared with the engine: log-probabilities differ by at most {moved:.1e} nats")


def _generation(shards: ShardSet) -> GenerationConfig:
    manifest = shards.manifest
    return GenerationConfig(
        bos_token_id=manifest.begin_id, eos_token_id=manifest.end_id, pad_token_id=manifest.pad_id
    )
