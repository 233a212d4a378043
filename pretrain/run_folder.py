"""The folder of a run: who owns it, how the run stands, and with which settings it was made.

RUN/lock            held by rank 0 for life (a kernel lock: kill -9 leaves nothing stale)
RUN/status.json     running, interrupted, failed or done; step; code: what job scripts read
RUN/config.yaml     every setting, defaults written out
RUN/deepspeed.json  the effective DeepSpeed settings
"""

import time
from pathlib import Path
from typing import Any

from data_prep.errors import ConfigError, DataError
from data_prep.files import read_json, write_json
from data_prep.lock import identity

STATUS = "status.json"
# What makes another order of the data by itself, so that its hash need not be told as well.
ORDERING = {
    "bad row groups",
    "data.shuffle_groups",
    "phases",
    "seed",
    "shards",
    "skips",
    "training.global_batch",
}
LOCK_WAIT_S = 60.0  # ranks of a killed run may take this long to die


def write_status(
    folder: Path, state: str, step: int, code: int | None = None, reason: str = ""
) -> None:
    """Record how the run stands; only the holder of the lock may call this."""
    about = {"state": state, "step": step, "code": code, "reason": reason, "time": time.time()}
    write_json(folder / STATUS, about | identity())


def read_status(folder: Path) -> dict[str, Any]:
    """The last status written, or {} where there is none; raises DataError where it is none."""
    path = folder / STATUS
    try:
        status = read_json(path)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(
            f"{path}: not readable as JSON; restore it from a copy, or remove it"
        ) from error
    if not isinstance(status, dict):
        found = type(status).__name__
        raise DataError(
            f"{path}: expected an object, found a {found}; restore it from a copy, or remove it"
        )
    return status


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One line for each setting that changed; the order's hash only where nothing else explains it."""
    keys = {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}
    if keys & ORDERING:
        keys.discard("order")
    return [f"{key}: was {before.get(key)!r}, is {now.get(key)!r}" for key in sorted(keys)]


def refuse_changes(changes: list[str], folder: Path) -> None:
    """Raise ConfigError listing what changed since the run's checkpoint was written."""
    if changes:
        listed = "\n".join(f"  {change}" for change in changes)
        raise ConfigError(
            f"run: {folder} was made with other settings:\n{listed}\n"
            "restore them, choose another folder, or accept the change with --accept_changes true"
        )
