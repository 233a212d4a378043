"""Units in processes of this machine, through datatrove's local executor."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import active_children, get_context, parent_process

import dill
from datatrove.executor.local import LocalPipelineExecutor

from data_prep.run.executor import Executor, Work
from data_prep.run.server import start_server

TRIES = 2  # of a task whose process is killed


class LocalProcesses(Executor):
    """Processes on this machine, each taking the next unit."""

    name = "local"

    def __init__(self, workers: int):
        self.workers = workers

    def shares(self, units: int) -> int:
        return units

    def run(self, work: Work, note: Callable[[str], None]) -> Mapping[str, str]:
        start_server()
        tasks = len(work.shares)
        faults = _PoolExecutor(
            pipeline=[work.step],
            tasks=tasks,
            workers=min(self.workers, tasks),
            logging_dir=str(work.folder),
            skip_completed=False,
        ).run()
        return {unit.name: fault for task, fault in faults.items() for unit in work.shares[task]}


class _PoolExecutor(LocalPipelineExecutor):
    """datatrove's executor over a pool that notices the death of its processes.

    multiprocessing's, which it takes, waits for ever for the task of a process that was killed. Of one
    worker it makes this very process, from which no unit must be forked (UnitProcess).
    """

    def run(self) -> dict[int, str]:
        """Run all tasks; for those that did not come to their end the reason."""
        task = dill.dumps(self._run_for_rank)
        faults: dict[int, str] = {}
        tries: Counter[int] = Counter()
        left = list(range(self.tasks))
        while lost := self._run_pool(task, left, faults):
            # Any that was at work may have killed its process; the first was at work for certain.
            first, *left = lost
            tries[first] += 1
            if tries[first] < TRIES:
                left.append(first)
            else:
                faults[first] = "the process that schedules it was killed"
        return faults

    def _run_pool(self, task: bytes, ranks: Sequence[int], faults: dict[int, str]) -> list[int]:
        """Run some tasks; those that were at work or waited when a process was killed, in their order."""
        futures = {}
        with ProcessPoolExecutor(self.workers, get_context("forkserver"), _be_worker) as pool:
            try:
                with suppress(BrokenProcessPool):
                    for rank in ranks:
                        futures[rank] = pool.submit(_run_task, task, rank)
                wait(futures.values())
            except BaseException:
                for process in active_children():
                    process.kill()
                raise
        lost = [rank for rank in ranks if rank not in futures]
        for rank, future in reversed(futures.items()):
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                lost.insert(0, rank)
            elif error is not None:
                faults[rank] = f"its task ended by {error!r}"
        return lost


def _be_worker() -> None:
    """Leave Ctrl-C to the run's process, and end when it does, at work or waiting for some."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_run, daemon=True).start()


def _end_with_run() -> None:
    above = parent_process()
    if above is not None:
        above.join()
    os._exit(1)


def _run_task(task: bytes, rank: int) -> None:
    dill.loads(task)(rank)
