"""The folder of a run: who owns it, how the run stands, and with which settings it was made.

RUN/lock            held by rank 0 for life (a kernel lock: kill -9 leaves nothing stale)
RUN/status.json     running, interrupted, failed or done; step; code: what job scripts read
RUN/config.yaml     every setting, defaults written out
RUN/deepspeed.json  the effective DeepSpeed settings
"""

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import IO, Any

from data_prep.errors import ConfigError, DataError
from data_prep.files import read_json, write_json

LOCK_WAIT_S = 60.0  # ranks of a killed run may take this long to die


class RunLock:
    """Ownership of a run's folder by one process; released by the kernel when the process ends."""

    def __init__(self, folder: Path):
        self.path = folder / "lock"
        self._stream: IO[str] | None = None

    def acquire(self, wait_s: float = LOCK_WAIT_S) -> None:
        """Take the lock, or raise DataError naming the holder after `wait_s` seconds."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        stream = self.path.open("a+")
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= deadline:
                    raise DataError(self._refusal(wait_s)) from None
                time.sleep(min(1.0, wait_s))
        stream.seek(0)
        stream.truncate()
        json.dump(identity(), stream)
        stream.flush()
        self._stream = stream  # closing it would release the lock

    @property
    def held(self) -> bool:
        return self._stream is not None

    def _refusal(self, wait_s: float) -> str:
        try:
            holder = json.loads(self.path.read_text())
        except (OSError, ValueError):
            holder = {}
        job = f", job {holder['job']}" if holder.get("job") else ""
        return (
            f"run: {self.path.parent} is in use by process {holder.get('pid', '?')} on "
            f"{holder.get('host', '?')}{job} (waited {wait_s:.0f} s); stop that run, or choose another folder"
        )


def identity() -> dict[str, Any]:
    """This process, for people who look for it."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job": os.environ.get("SLURM_JOB_ID"),
    }


def write_status(
    folder: Path, state: str, step: int, code: int | None = None, reason: str = ""
) -> None:
    """Record how the run stands; only the holder of the lock may call this."""
    about = {"state": state, "step": step, "code": code, "reason": reason, "time": time.time()}
    write_json(folder / "status.json", about | identity())


def read_status(folder: Path) -> dict[str, Any]:
    """The last status written, or {} where there is none."""
    try:
        return read_json(folder / "status.json")
    except FileNotFoundError:
        return {}


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One line for each setting that changed."""
    return [
        f"{key}: was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]


def refuse_changes(changes: list[str], folder: Path) -> None:
    """Raise ConfigError listing what changed since the run's checkpoint was written."""
    if changes:
        listed = "\n".join(f"  {change}" for change in changes)
        raise ConfigError(
            f"run: {folder} was made with other settings:\n{listed}\n"
            "restore them, choose another folder, or accept the change with --accept_changes true"
        )
