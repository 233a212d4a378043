"""What every contender reads: a shard set of random tokens, a run's config, and its batches as tensors."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from benchmarks.training.cases import Case
from data_prep.config_file import load_config
from data_prep.files import folder_atomically
from data_prep.shards.assemble import build_shard_set, shard_format
from data_prep.shards.writer import EncodedDocument
from data_prep.tokenizer.encode import load_encoder
from pretrain.config import RunConfig
from pretrain.data.loader import StepDataset, Steps
from pretrain.data.step_rows import StepRows
from pretrain.plan import make_plan

END = "<|endoftext|>"
SEED = 1
OPTIMIZER = {"learning_rate": 3e-4, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1}
CLIPPING = 1.0
# Tokens of a document: titles with abstracts (GPT-2's tokenizer gives a median of about 270), and one in
# twenty an article of some thousands.
ABSTRACT, ARTICLE, ARTICLES = (270, 0.5), (5000, 0.6), 0.05


def tokenizer_folder(folder: Path, vocabulary: int) -> Path:
    """A tokenizer of so many tokens, most of which no text gives."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*letters, *(f"<token {number}>" for number in range(len(letters), vocabulary - 1))]
    tokenizer = Tokenizer(
        models.BPE({name: number for number, name in enumerate([*names, END])}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def shard_set(home: Path, case: Case, sequences: int) -> Path:
    """At least `sequences` packed sequences of random tokens in documents of realistic lengths."""
    tokenizer = tokenizer_folder(home / "tokenizer", case.vocabulary)
    form = shard_format(
        load_encoder(tokenizer),
        sequence_length=case.sequence,
        policy="best_fit",
        row_group=64,
        begin_token=False,
    )
    with folder_atomically(home / "shards") as folder:
        build_shard_set(
            folder,
            _documents(case, sequences * case.sequence),
            form,
            window=4096,
            source="random",
            split="train",
            tokenizer=tokenizer,
            settings={},
            inputs={"random": str(SEED)},
        )
    return home / "shards"


def _documents(case: Case, tokens: int) -> Iterator[EncodedDocument]:
    generator = np.random.default_rng(SEED)
    written = number = 0
    while written < tokens:
        median, deviation = ARTICLE if generator.random() < ARTICLES else ABSTRACT
        length = 2 + int(generator.lognormal(np.log(median), deviation))
        ids = generator.integers(case.vocabulary - 1, size=length).astype(np.uint16)
        ids[-1] = case.vocabulary - 1
        yield EncodedDocument(f"text:random#{number}", ids, "random", length, {})
        written, number = written + length, number + 1


def run_config(home: Path, case: Case, shards: Path, deepspeed: Path) -> Path:
    """The config of our run: nothing is saved or validated in the steps that count."""
    values: dict[str, Any] = {
        "run": str(home / "run"),
        "seed": SEED,
        "model": {"config": case.model},
        "data": {"train": {"random": {"path": str(shards)}}},
        "optimizer": OPTIMIZER,
        "schedule": {"name": "constant"},
        "training": {
            "steps": 1_000_000,  # it is stopped when the steps that count are done
            "global_batch": case.global_batch,
            "micro_batch": case.micro_batch,
            "precision": case.precision,
            "gradient_clipping": CLIPPING,
            "activation_checkpointing": case.activation_checkpointing,
        },
        "deepspeed": str(deepspeed),
        "checkpoint": {"every_minutes": None},
    }
    path = home / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def save_batches(config_file: Path, case: Case, steps: int, folder: Path) -> dict[str, Any]:
    """Write each rank's micro-batches as our loader gives them; returns the effective DeepSpeed settings.

    RANK.pt holds `tokens`, `labels` and `position_ids`, each (steps, accumulation, micro_batch, L).
    """
    config = load_config(RunConfig, config_file)
    plan = make_plan(config, case.ranks)
    folder.mkdir()
    for rank in range(case.ranks):
        rows = StepRows(plan.order, list(plan.train.values()), rank, case.ranks, case.micro_batch)
        batches = [batch.tensors for batch in Steps(StepDataset(rows, "document", 0, steps))]
        shape = (steps, case.accumulation, case.micro_batch, case.sequence)
        stacked = {
            name: torch.stack([tensors[name] for tensors in batches]).view(shape)
            for name in batches[0]
        }
        torch.save(stacked, folder / f"{rank}.pt")
    return plan.deepspeed_settings
