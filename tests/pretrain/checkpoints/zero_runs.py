"""Starts of tests.pretrain.checkpoints.zero_worker: a small training on real ranks, without this project's trainer."""

import json
from pathlib import Path
from typing import Any

import torch

from tests import ranks

Outcome = dict[str, Any]


def start(folder: Path, name: str, world: int, **task: Any) -> list[ranks.Rank]:
    """Start the ranks of a task; checkpoints go to `folder`/checkpoints where the task names no other."""
    path = folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    task = {"world": world, "folder": str(folder / "checkpoints")} | task
    path.write_text(json.dumps(task))
    return ranks.start(["-m", "tests.pretrain.checkpoints.zero_worker", str(path)], world)


def run(folder: Path, name: str, world: int, **task: Any) -> Outcome:
    """Run a task to its end: losses by step, whole weights and moments by parameter, what was said."""
    ranks.end(start(folder, name, world, **task))
    return torch.load(folder / f"{name}.pt")


def failure(folder: Path, name: str, **task: Any) -> str:
    """Run a task of one rank that ends with an error; its message."""
    [rank] = start(folder, name, 1, **task)
    error = rank.end()
    assert rank.process.returncode in (1, 2), error[-3000:]
    assert "Traceback" not in error, error[-3000:]
    return error.strip().splitlines()[-1]
