"""Units as the tasks of Slurm array jobs, through datatrove's executor for Slurm.

The folders must be on a file system that all nodes share, and the jobs start this very Python. The jobs
of a stage are known by their name, so that a run finds those that an earlier, killed one left behind.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datatrove.executor.slurm import SlurmPipelineExecutor

import data_prep
from data_prep.config import Slurm
from data_prep.errors import ConfigError, DataError
from data_prep.files import digest
from data_prep.progress import console
from data_prep.run.executor import SHARES, Executor, Work
from data_prep.units import Stage

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol")
DEFAULT_ARRAY = 1001  # Slurm's own MaxArraySize
FIRST_PAUSE_S, LONGEST_PAUSE_S = (
    0.5,
    10.0,
)  # between questions to slurmctld, which others ask as well
PATIENCE_S = 900.0  # with a slurmctld that does not answer: it may be restarted
CANCEL_S = 90.0  # KillWait is 30 s, and a node takes as long again to clean up
KEPT = ("SLURM_CONF", "SLURM_CLUSTERS")  # of the variables of a job that this may run in


class _ArrayExecutor(SlurmPipelineExecutor):
    """datatrove's executor without its own job for statistics, and with the Python that runs this."""

    def launch_merge_stats(self) -> None:
        """Nothing: that job depends on the success of all tasks, and waits for ever where one dies."""

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        options = super().get_sbatch_args(max_array)
        return {
            name: shlex.quote(str(value)) if value else value
            for name, value in options.items()
            if value is not None
        }

    def get_launch_file_contents(self, sbatch_args: dict[str, Any], run_script: str) -> str:
        pickled = self.logging_dir.resolve_paths("executor.pik")
        module = "datatrove.tools.launch_pickled_pipeline"
        return super().get_launch_file_contents(
            sbatch_args, shlex.join([sys.executable, "-m", module, pickled])
        )


class SlurmJobs(Executor):
    """An array job for a stage: a task for each share of its units."""

    name = "slurm"

    def __init__(self, workers: int, settings: Slurm):
        missing = [command for command in COMMANDS if not shutil.which(command)]
        if missing:
            raise ConfigError(
                f"executor: slurm, but this machine has no {', '.join(missing)}; run this where jobs "
                "are submitted, or choose another executor"
            )
        self.workers = settings.jobs_at_once or workers
        self._settings = settings
        self._largest_array = _largest_array()
        self._job: str | None = None

    def shares(self, units: int) -> int:
        return min(units, self.workers * SHARES, self._largest_array)

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"slurm_job": self._job, "largest_array": self._largest_array}

    def run(self, work: Work, note: Callable[[str], None]) -> Mapping[str, str]:
        name = _job_name(work.stage)
        executor = self._executor(work, name)
        try:
            with _outside_any_job():
                executor.run()
        except subprocess.CalledProcessError as error:
            raise ConfigError(
                "slurm: sbatch refused the job for the reason above; mend the section slurm of the config "
                f"({error.returncode} of sbatch {work.folder / 'launch_script.slurm'})"
            ) from None
        self._job = str(executor.job_id)
        try:
            _wait(name, note)
        except KeyboardInterrupt:
            console.print(f"cancelling the Slurm job {self._job}", highlight=False)
            _cancel(name)
            raise
        return _reasons(name, work)

    def withdraw(self, stage: Stage) -> None:
        """Cancel the jobs that an earlier run of the stage left at work when it was killed."""
        name = _job_name(stage)
        if _queue(name):
            console.print(
                f"{stage.name}: cancelling the Slurm jobs that an earlier run left at work"
            )
            _cancel(name)

    def _executor(self, work: Work, name: str) -> _ArrayExecutor:
        settings = self._settings
        package = str(Path(data_prep.__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        return _ArrayExecutor(
            pipeline=[work.step],
            tasks=len(work.shares),
            workers=self.workers,
            time=settings.time,
            partition=settings.partition,  # type: ignore[arg-type] # none: the cluster's default
            mem_per_cpu_gb=settings.mem_per_cpu_gb,
            qos=None,  # type: ignore[arg-type] # the account's default, not datatrove's "normal"
            job_name=name,
            job_id_position=3,  # "Submitted batch job 17", and the cluster's name where there are several
            env_command=f"export PYTHONPATH={shlex.quote(path)}",
            sbatch_args=settings.sbatch,
            max_array_size=self._largest_array,
            logging_dir=str(work.folder.resolve()),
            skip_completed=False,
            requeue_signals=None,
            with_srun=False,  # one task on one node: the batch script is it
        )


def _job_name(stage: Stage) -> str:
    return f"data_prep-{stage.name}-{digest(str(stage.directory.resolve()))[:8]}"


def _ask(*command: str) -> str | None:
    """What a Slurm command printed; None where it failed."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return ended.stdout if ended.returncode == 0 else None


def _largest_array() -> int:
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config") or "", re.M)
    return int(found[1]) if found else DEFAULT_ARRAY


def _squeue(name: str, form: str, *options: str) -> list[str] | None:
    user = str(os.getuid())
    printed = _ask("squeue", "-h", "-r", "-u", user, "-n", name, "-o", form, *options)
    return None if printed is None else printed.splitlines()


def _queue(name: str) -> list[str]:
    """State and, where it waits, the reason of each task that is not over."""
    deadline = time.monotonic() + PATIENCE_S
    while (lines := _squeue(name, "%T %r")) is None:
        if time.monotonic() > deadline:
            raise DataError(
                f"slurm: squeue has not answered for {PATIENCE_S:.0f} s; the jobs go on: run the same "
                "command again when it does, to see what they did and do the rest"
            )
        time.sleep(LONGEST_PAUSE_S)
    return lines


def _wait(name: str, note: Callable[[str], None]) -> None:
    """Return when no task is left in the queue."""
    pause = FIRST_PAUSE_S
    while queue := _queue(name):
        note(", ".join(f"{count} {text}" for text, count in Counter(map(_state, queue)).items()))
        time.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE_S)


def _state(line: str) -> str:
    state, _, reason = line.partition(" ")
    return f"pending ({reason})" if state == "PENDING" else state.lower()


def _cancel(name: str) -> None:
    """Cancel and wait until the tasks are gone: none may write any more."""
    deadline = time.monotonic() + CANCEL_S
    _ask("scancel", f"--user={os.getuid()}", f"--name={name}")
    while _queue(name):
        if time.monotonic() > deadline:
            raise DataError(
                f"slurm: jobs {name} are still there {CANCEL_S:.0f} s after scancel; wait until they are "
                "gone, then run the same command again"
            )
        time.sleep(FIRST_PAUSE_S)


def _reasons(name: str, work: Work) -> dict[str, str]:
    """For the units of tasks that Slurm remembers as ended otherwise than well: how."""
    reasons = {}
    for line in _squeue(name, "%F %K %T", "-t", "all") or ():
        job, task, state = line.split()
        if state != "COMPLETED" and task.isdigit() and int(task) < len(work.shares):
            log = work.folder / f"slurm_logs/{job}_{task}.out"
            for unit in work.shares[int(task)]:
                reasons[unit.name] = f"its Slurm job {job}_{task} ended as {state}; see {log}"
    return reasons


@contextmanager
def _outside_any_job() -> Iterator[None]:
    """Submit as from outside: jobs would inherit what a job that this runs in was given.

    datatrove takes SLURM_ARRAY_TASK_ID for the sign that it is one of its own tasks.
    """
    inside = [name for name in os.environ if name.startswith("SLURM_") and name not in KEPT]
    taken = {name: os.environ.pop(name) for name in inside}
    try:
        yield
    finally:
        os.environ.update(taken)
