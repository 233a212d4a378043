"""Starts of tests.pretrain.checkpoints.zero_worker: a small training on real ranks, without this project's trainer."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from tests import tiny

Outcome = dict[str, Any]


def start(folder: Path, name: str, world: int, **task: Any) -> list[subprocess.Popen[str]]:
    """Start the ranks of a task; checkpoints go to `folder`/checkpoints where the task names no other."""
    path = folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    task = {"world": world, "folder": str(folder / "checkpoints")} | task
    path.write_text(json.dumps(task))
    port = str(tiny.free_port())
    command = [sys.executable, "-m", "tests.pretrain.checkpoints.zero_worker", str(path)]
    return [
        subprocess.Popen(
            command,
            cwd=tiny.ROOT,
            env=tiny.ENVIRONMENT
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def run(folder: Path, name: str, world: int, **task: Any) -> Outcome:
    """Run a task to its end: losses by step, whole weights and moments by parameter, what was said."""
    processes = start(folder, name, world, **task)
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert not any(process.returncode for process in processes), errors[0][-3000:]
    return torch.load(folder / f"{name}.pt")


def failure(folder: Path, name: str, **task: Any) -> str:
    """Run a task of one rank that ends with an error; its message."""
    [process] = start(folder, name, 1, **task)
    error = process.communicate(timeout=300)[1]
    assert process.returncode in (1, 2), error[-3000:]
    assert "Traceback" not in error, error[-3000:]
    return error.strip().splitlines()[-1]
