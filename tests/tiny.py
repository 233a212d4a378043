"""Tiny real inputs for the tests: a tokenizer, shard sets, run configs, and real launches."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from data_prep.shards.assemble import build_shard_set, shard_format
from data_prep.shards.writer import EncodedDocument
from data_prep.tokenizer.encode import load_encoder

ROOT = Path(__file__).resolve().parents[1]
END = "<|endoftext|>"
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",  # two ranks share two cores
    "DS_ACCELERATOR": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def byte_tokenizer(folder: Path) -> Path:
    """A tokenizer folder of the 256 bytes and an end token: any text, nothing learnt."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*alphabet, END])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def shard_set(
    folder: Path,
    documents: int = 60,
    seed: int = 0,
    length: int = 32,
    masked: bool = False,
    odd: tuple[int, int] | None = None,
) -> Path:
    """A shard set of random documents in a vocabulary of bytes, 5 to 60 tokens each.

    `odd`: the number of a document, and the byte that it is made of, and no other.
    """
    tokenizer = byte_tokenizer(folder.parent / "tokenizer")
    form = shard_format(
        load_encoder(tokenizer),
        sequence_length=length,
        policy="best_fit",
        row_group=64,
        begin_token=False,
        has_loss_mask=masked,
    )
    folder.mkdir(parents=True)
    build_shard_set(
        folder,
        _documents(documents, seed, masked, odd),
        form,
        window=64,
        source=folder.name,
        split="train",
        tokenizer=tokenizer,
        settings={},
        inputs={"made up": str(seed)},
    )
    return folder


def _documents(
    count: int, seed: int, masked: bool, odd: tuple[int, int] | None
) -> Iterator[EncodedDocument]:
    generator = np.random.default_rng(seed)
    for number in range(count):
        # Few different bytes, so that a small model learns something in a few steps.
        tokens = generator.integers(97, 105, size=generator.integers(5, 60)).astype(np.uint16)
        tokens[-1] = 256
        if odd and number == odd[0]:
            tokens[:-1] = odd[1]
        mask = np.arange(len(tokens)) >= len(tokens) // 2 if masked else None
        name = f"text:made-up#{number}"
        yield EncodedDocument(name, tokens, "made up", len(tokens), {}, mask)


GPT2 = {
    "model_type": "gpt2",
    "n_layer": 2,
    "n_embd": 32,
    "n_head": 2,
    "n_positions": 64,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}


def run_config(run: Path, train: dict[str, Path], **changes: Any) -> dict[str, Any]:
    """The values of a small run's config; `changes` have dotted names with __ for dots."""
    values: dict[str, Any] = {
        "run": str(run),
        "seed": 7,
        "model": {"config": GPT2},
        "data": {
            "train": {name: {"path": str(path), "weight": 1} for name, path in train.items()},
            "shuffle_groups": 4,
            "workers": 0,
        },
        "optimizer": {"learning_rate": 1e-3, "weight_decay": 0.1},
        "schedule": {"name": "cosine", "warmup_steps": 2},
        "training": {"steps": 6, "global_batch": 4, "micro_batch": 1, "precision": "fp32"},
        "deepspeed": str(ROOT / "configs/deepspeed/zero3.json"),
        "checkpoint": {"every_steps": 3},
    }
    for name, value in changes.items():
        *parents, last = name.split("__")
        section = values
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return values


def write_config(path: Path, values: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values))
    return path


def launch_command(config: Path, ranks: int, script: str = "pretrain") -> list[str]:
    """`deepspeed launch/SCRIPT.py` on this machine, on a port of its own."""
    deepspeed = str(Path(sys.executable).with_name("deepspeed"))
    command = [deepspeed, "--num_gpus", str(ranks), "--master_port", str(free_port())]
    return [*command, str(ROOT / f"launch/{script}.py"), "--config", str(config)]


def launch(
    config: Path, ranks: int = 2, script: str = "pretrain", *overrides: str
) -> subprocess.CompletedProcess[str]:
    """Run a training to its end."""
    command = [*launch_command(config, ranks, script), *overrides]
    return subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600, check=False
    )


def run_alone(
    config: Path, script: str = "pretrain", *overrides: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a training as one process, without a launcher."""
    command = [sys.executable, str(ROOT / f"launch/{script}.py"), "--config", str(config)]
    return subprocess.run(
        [*command, *overrides],
        env=ENVIRONMENT | {"MASTER_PORT": str(free_port())} | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def losses(run: Path, name: str = "metrics.jsonl") -> dict[int, float]:
    """Loss by step, as a run's metrics say."""
    lines = [json.loads(line) for line in (run / name).read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def rank_processes(config: Path) -> list[int]:
    """Process ids of the ranks that run with this config, lowest local rank first."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        rank = [part for part in command if part.startswith(b"--local_rank=")]
        if rank and str(config).encode() in command:
            found.append((int(rank[0].split(b"=")[1]), int(folder.name)))
    return [pid for _, pid in sorted(found)]


def wait_for(condition: Any, timeout_s: float = 300.0) -> None:
    """Wait until `condition()` holds, or fail the test."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("waited in vain")
        time.sleep(0.05)


def kill(pids: list[int], number: int = signal.SIGKILL) -> None:
    for pid in pids:
        os.kill(pid, number)
