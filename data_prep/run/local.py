"""Units in processes of this machine, through datatrove's local executor."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process, set_forkserver_preload

import dill
from datatrove.executor.local import LocalPipelineExecutor

from data_prep.run.executor import Executor, Work

# The server that forks processes imports every stage once, and not each process anew (0.6 s).
set_forkserver_preload(["data_prep.pipeline", "pandas"])


class LocalProcesses(Executor):
    """Processes on this machine, each taking the next unit."""

    name = "local"

    def __init__(self, workers: int):
        self.workers = workers

    def shares(self, units: int) -> int:
        return units

    def run(self, work: Work, note: Callable[[str], None]) -> Mapping[str, str]:
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
        left: Collection[int] = range(self.tasks)
        while left:
            lost = self._run_pool(task, left, faults)
            if len(lost) == len(left):  # what it needs to get further is not in another try
                return faults | dict.fromkeys(lost, "the process that schedules it was killed")
            left = lost
        return faults

    def _run_pool(self, task: bytes, ranks: Collection[int], faults: dict[int, str]) -> list[int]:
        """Run some tasks; those that were lost with a process, or waited for one when that was killed."""
        with ProcessPoolExecutor(self.workers, get_context("forkserver"), _be_worker) as pool:
            futures = {}
            lost = []
            try:
                for rank in ranks:
                    futures[rank] = pool.submit(_run_task, task, rank)
                wait(futures.values())
            except BrokenProcessPool:  # while tasks were handed in
                lost = [rank for rank in ranks if rank not in futures]
                wait(futures.values())
            except BaseException:
                for process in active_children():
                    process.kill()
                raise
        for rank, future in futures.items():
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                lost.append(rank)
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
