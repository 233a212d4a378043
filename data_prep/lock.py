"""One owner for a folder: two processes writing into it would undo each other's work."""

import fcntl
import json
import os
import socket
import struct
import sys
import time
from pathlib import Path
from typing import IO, Any

from data_prep.errors import DataError

_FLOCK = "hhqqi"  # struct flock on 64-bit Linux: type, whence, start, length, pid


class FolderLock:
    """Ownership of a folder by one process; the kernel lets it go when the process ends, however it does.

    A POSIX lock: it goes, too, when this process closes any descriptor of the file, so nobody opens it.
    """

    def __init__(self, folder: Path, field: str):
        self.field = field  # of the config, for the message
        self.path = folder / "lock"
        self._stream: IO[str] | None = None

    def acquire(self, wait_s: float) -> None:
        """Take the lock, or raise DataError naming the holder after `wait_s` seconds."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        stream = self.path.open("a+")
        deadline = time.monotonic() + wait_s
        waiting = False
        while True:
            try:
                fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= deadline:
                    waited = f"(waited {wait_s:.0f} s)"
                    cure = "stop it, or choose another folder"
                    raise DataError(f"{self._holder()} {waited}; {cure}") from None
                if not waiting:
                    print(f"{self._holder()}: waiting, {wait_s:.0f} s at most", file=sys.stderr)
                    waiting = True
                time.sleep(min(1.0, wait_s))
        stream.seek(0)
        stream.truncate()
        json.dump(identity(), stream)
        stream.flush()
        self._stream = stream  # closing it would release the lock

    @property
    def held(self) -> bool:
        return self._stream is not None

    def _holder(self) -> str:
        try:
            holder = json.loads(self.path.read_text())
        except (OSError, ValueError):
            holder = {}
        job = f", job {holder['job']}" if holder.get("job") else ""
        return (
            f"{self.field}: {self.path.parent} is in use by process {holder.get('pid', '?')} on "
            f"{holder.get('host', '?')}{job}"
        )


def holder(folder: Path) -> dict[str, Any] | None:
    """Who owns a folder now, as `identity` tells it; None where nobody does. Nothing is written or taken.

    Raises OSError where the file system has no locks.
    """
    try:
        stream = (folder / "lock").open()
    except FileNotFoundError:
        return None
    with stream:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = struct.unpack(_FLOCK, fcntl.fcntl(stream, fcntl.F_GETLK, asked))
        if answer[0] == fcntl.F_UNLCK:
            return None
        try:
            return dict(json.load(stream))
        except ValueError:  # it has this moment taken it
            return {"host": None, "pid": answer[4], "job": None}


def identity() -> dict[str, Any]:
    """This process, for people who look for it."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job": os.environ.get("SLURM_JOB_ID"),
    }
