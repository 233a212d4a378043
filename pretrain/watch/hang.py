"""A run that stands still: every rank writes down where, and ends, to be started again.

Each rank watches itself; none can be asked from outside while a collective operation waits for a rank
that stopped. Standing still has many causes (a network, a disk, a card, a bug) and one cure: the run ends
with 75, interrupted, and goes on from its last checkpoint.

    RUN/stacks/rank-3.txt    the stacks of all threads of rank 3, at the last hang
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from pretrain.run_folder import read_status, write_status

FOLDER = "stacks"
INTERRUPTED = 75  # exit code: started again, it goes on (sysexits' EX_TEMPFAIL)
REASON = "no step within"  # begins the reason in status.json
# A launcher kills all ranks once one has ended. The deadlines of the ranks lie apart by what they differ
# in coming back from one collective operation, and network file systems show a file after seconds.
GRACE_S = 30.0


class HangWatch:
    """Ends this process when `beat` was not called for `minutes` (None: never); a context manager.

    A thread looks at the clock, and writes the stacks. Should native code hold the interpreter, so that no
    thread runs, faulthandler's own watchdog writes them and ends the process, with 1.
    """

    def __init__(
        self, run: Path, rank: int, world: int, minutes: float | None, grace_s: float = GRACE_S
    ):
        self.run, self.rank, self.world = run, rank, world
        self.limit_s = None if minutes is None else minutes * 60
        self.grace_s = grace_s
        self._deadline: float | None = None  # on the monotonic clock; None: any time may pass
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hang watch", daemon=True)
        self._ends = False

    def __enter__(self) -> "HangWatch":
        if self.limit_s is None:
            return self
        path = self._stacks(self.rank)
        path.parent.mkdir(exist_ok=True)
        self._file: TextIO = path.open("w")
        self.beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._ends:  # another rank ended a moment earlier: its loss is no failure of this one
            self._thread.join()
        if self.limit_s is not None:
            self._done.set()
            self._deadline = None
            faulthandler.cancel_dump_traceback_later()
            self._file.close()
            if not self._has_told(self.rank):
                self._stacks(self.rank).unlink(missing_ok=True)

    def beat(self) -> None:
        """The run moves; called after each step, and each batch of an evaluation (some 0.1 ms)."""
        if self.limit_s is not None:
            self._deadline = time.monotonic() + self.limit_s
            later = self.limit_s + self.grace_s / 2  # the thread's turn comes first
            faulthandler.dump_traceback_later(later, exit=True, file=self._file)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done within may take any time: a conversion, a slow disk that would be slow again."""
        if self.limit_s is not None:
            self._deadline = None
            faulthandler.cancel_dump_traceback_later()
        try:
            yield
        finally:
            self.beat()

    def _watch(self) -> None:
        assert self.limit_s is not None
        while not self._done.wait(min(1.0, self.limit_s / 10)):
            deadline = self._deadline
            if deadline is not None and time.monotonic() > deadline:
                self._end()

    def _end(self) -> None:
        """Write the stacks, wait for the other ranks to do the same, say so once, and end."""
        self._ends = True
        faulthandler.cancel_dump_traceback_later()
        try:
            for stream in (self._file, sys.stderr):
                print(f"rank {self.rank}: {self._reason()}", file=stream, flush=True)
                faulthandler.dump_traceback(stream, all_threads=True)
            if self.rank == 0:
                self._write_status(self._reason())
            time.sleep(self.grace_s)
            silent = [rank for rank in range(self.world) if not self._has_told(rank)]
            # Rank 0 speaks for all; where it is the one that does not move, the first that does.
            if all(rank in silent for rank in range(self.rank)):
                told = f"; no stacks from ranks {silent}: stopped or gone" if silent else ""
                reason = f"{self._reason()}, the stacks are in {self._stacks(0).parent}{told}"
                self._write_status(reason)
                print(f"{reason}; start it again with the same command", file=sys.stderr)
        finally:
            sys.stderr.flush()
            os._exit(INTERRUPTED)

    def _reason(self) -> str:
        assert self.limit_s is not None
        return f"{REASON} {self.limit_s / 60:g} minutes"

    def _write_status(self, reason: str) -> None:
        step = read_status(self.run).get("step", 0)
        write_status(self.run, "interrupted", step, INTERRUPTED, reason)

    def _stacks(self, rank: int) -> Path:
        return self.run / FOLDER / f"rank-{rank}.txt"

    def _has_told(self, rank: int) -> bool:
        try:
            return self._stacks(rank).stat().st_size > 0
        except OSError:
            return False
