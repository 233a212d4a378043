"""What the run reports: metrics.jsonl always, Weights & Biases when asked."""

import json
import math
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.documents import read_json_lines
from data_prep.files import read_json, write_json
from pretrain.config import Tracking
from pretrain.watch.display import say

METRICS = "metrics.jsonl"
ROLLED_BACK = "metrics.rolled-back.jsonl"
TAIL = 2**20  # bytes: hundreds of lines, and a step has a handful


def roll_back(folder: Path, step: int) -> int:
    """Move the lines after `step` to metrics.rolled-back.jsonl, so that each step stands once.

    A last line that a killed process left half-written is dropped. Returns how many lines moved.
    """
    path = folder / METRICS
    if not path.exists():
        return 0

    def later(line: bytes) -> bool:
        return bool(json.loads(line)["step"] > step)

    kept = 0  # bytes
    with path.open("rb+") as stream:
        for line in stream:
            if not line.endswith(b"\n") or later(line):
                break
            kept += len(line)
        stream.seek(kept)
        # What came after the last checkpoint: little, however long the run.
        rest = [line for line in stream if line.endswith(b"\n")]
        moved = [line for line in rest if later(line)]
        if moved:
            with (folder / ROLLED_BACK).open("ab") as aside:
                aside.writelines(moved)
                aside.flush()
                os.fsync(aside.fileno())
        stream.truncate(kept)
        stream.seek(kept)
        stream.writelines(line for line in rest if not later(line))
    return len(moved)


def read_metrics(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, one at a time: a month of them fills gigabytes."""
    return read_json_lines(folder / METRICS)


def last_lines(folder: Path) -> Iterator[dict[str, Any]]:
    """The whole lines at the end of metrics.jsonl, those of the last step at least."""
    with (folder / METRICS).open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - TAIL))
        if size > TAIL:
            stream.readline()  # the rest of a line
        for line in stream:
            yield json.loads(line)


class Metrics:
    """Appends one line per report; every line has `step`, the number of steps completed."""

    def __init__(self, folder: Path, tracking: Tracking, config: dict[str, Any]):
        self._folder = folder
        self._stream = (folder / METRICS).open("a", encoding="utf-8")
        self._wandb = _start_wandb(folder, tracking, config) if tracking.wandb != "off" else None

    def write(self, line: dict[str, Any]) -> None:
        self._stream.write(json.dumps(finite(line), allow_nan=False) + "\n")
        self._stream.flush()
        if self._wandb is not None:
            self._wandb.log(_flat(line))

    def roll_back(self, step: int) -> int:
        """As the function of this name, while the run goes on."""
        self._stream.close()
        moved = roll_back(self._folder, step)
        self._stream = (self._folder / METRICS).open("a", encoding="utf-8")
        return moved

    def sync(self) -> None:
        """Make what was written survive a power loss."""
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        self.sync()
        self._stream.close()
        if self._wandb is not None:
            self._wandb.finish()


def _start_wandb(folder: Path, tracking: Tracking, config: dict[str, Any]) -> Any:
    """The run's one wandb run, gone on with after a resume."""
    import wandb

    remembered = folder / "wandb.json"
    run_id = read_json(remembered)["id"] if remembered.exists() else secrets.token_hex(4)
    write_json(remembered, {"id": run_id})
    # Without a key "online" would ask on a terminal that a batch job does not have.
    online = tracking.wandb == "online" and (os.environ.get("WANDB_API_KEY") or wandb.api.api_key)
    if tracking.wandb == "online" and not online:
        say(
            "tracking.wandb: online, but no key is known (WANDB_API_KEY): written offline, for wandb sync"
        )
    run = wandb.init(
        id=run_id,
        resume="allow",
        dir=folder,
        project=tracking.project,
        name=tracking.name,
        config=config,
        mode="online" if online else "offline",
        settings=wandb.Settings(console="off", silent=True),
    )
    # Not wandb's own step, which never goes back: after a rollback a step would be dropped.
    run.define_metric("*", step_metric="step")
    return run


def finite(value: Any) -> Any:
    """NaN and infinity as null: JSON has no word for them."""
    if isinstance(value, dict):
        return {key: finite(below) for key, below in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(line: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in line.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}/")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
