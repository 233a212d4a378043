"""Runs that go on in the background, to be watched, stopped and looked at."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests import tiny


def start(config: Path, ranks: int = 2, *overrides: str) -> subprocess.Popen[str]:
    """`deepspeed launch/pretrain.py` in a session of its own."""
    return subprocess.Popen(
        [*tiny.launch_command(config, ranks), *overrides],
        env=tiny.ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str], config: Path, timeout_s: float = 120) -> str:
    """Wait for the launcher and all ranks; gives what was said on standard error."""
    _, said = process.communicate(timeout=timeout_s)
    tiny.wait_for(lambda: not tiny.rank_processes(config))
    return said


def lines(run: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl, also while it is written."""
    path = run / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]


def last_step(run: Path) -> int:
    found = lines(run)
    return found[-1]["step"] if found else 0


def status(run: Path) -> dict[str, Any]:
    return json.loads((run / "status.json").read_text())


def checkpoints(run: Path) -> list[int]:
    """Steps of the checkpoints that have their name, oldest first."""
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))


def copy_up_to(run: Path, target: Path, step: int) -> Path:
    """A copy of a finished run as if it had been killed after the checkpoint of `step`."""
    shutil.copytree(run, target)
    assert (target / "checkpoints" / f"step-{step:08d}").is_dir()
    for path in (target / "checkpoints").glob("step-*"):
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    (target / "status.json").unlink()
    return target
