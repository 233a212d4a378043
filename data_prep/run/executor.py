"""Runs what is not done of a stage: on this machine, as Slurm jobs, or on a Ray cluster.

datatrove schedules, through its executor for each; it does not decide. Its own completion marks are
not used, a unit that fails or is killed is recorded while the others go on, and what is done is
asked of the units' own records when it comes back.
"""

from __future__ import annotations

import heapq
import os
import secrets
import shutil
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from data_prep.config import CorpusConfig
from data_prep.errors import DataError
from data_prep.files import canonical_json, read_json, remove_partials, write_json
from data_prep.lock import identity
from data_prep.progress import follow
from data_prep.run.plan import RUN, states, tally, write_plan
from data_prep.run.processes import InterruptedUnitError, UnitProcess
from data_prep.units import (
    FAILURES,
    Stage,
    Unit,
    execute,
    failure_path,
    finished,
    is_done,
    record_failure,
    source_of,
)

# Units report through their records; datatrove's own log lines would say it twice.
logger.disable("datatrove")

# Shares for each job at once: the last one to end holds the others up by a quarter of the time at most.
SHARES = 4


class UnitStep(PipelineStep):
    """Executes a share of the units as a datatrove task, each in a process of its own.

    A unit's failure or death is recorded and ends neither the task nor the run. A task that a scheduler
    starts again does what it had left.
    """

    type = "biomed-pretrain"

    def __init__(self, stage: Stage, shares: Path):
        super().__init__()
        self.name = stage.name
        self.stage = stage
        self.shares = shares
        self.home = os.getcwd()  # what relative paths of a config start from, on every node
        self.key = secrets.token_hex(8)  # of this run, among those that a process works for

    def run(self, data=None, rank: int = 0, world_size: int = 1):  # type: ignore[no-untyped-def]
        os.chdir(self.home)
        process = _unit_process(self.stage, self.key)
        with self.track_time():
            for values in read_json(self.shares / f"{rank}.json"):
                try:
                    _run_unit(process, self.stage, Unit(**values))
                except InterruptedUnitError:
                    break
        yield from ()


# One for all the tasks that a process gets of a run, so that a stage prepares once and not once a task.
_processes: dict[str, UnitProcess] = {}


def _unit_process(stage: Stage, key: str) -> UnitProcess:
    if key not in _processes:
        # Ray's processes go on to the next run.
        for earlier in _processes.values():
            earlier.close()
        _processes.clear()

        def prepare() -> None:
            with suppress(Exception):  # each unit meets the fault itself, and says so
                stage.prepare()

        def work(values: bytes) -> None:
            execute(stage, Unit(**orjson.loads(values)))

        _processes[key] = UnitProcess(prepare, work)
    return _processes[key]


def _run_unit(process: UnitProcess, stage: Stage, unit: Unit) -> None:
    failure = failure_path(stage.directory, unit.name)
    if failure.exists() or is_done(stage, unit):
        return
    reason = process.do(canonical_json(asdict(unit)))
    if reason is not None and not failure.exists() and not is_done(stage, unit):
        record_failure(stage, unit, reason)


@dataclass(frozen=True)
class Work:
    """Units to do, dealt into shares as files `<folder>/shares/<task>.json`."""

    stage: Stage
    shares: Sequence[Sequence[Unit]]
    folder: Path  # for datatrove's and the scheduler's files

    @property
    def step(self) -> UnitStep:
        return UnitStep(self.stage, self.folder / "shares")


class Executor(ABC):
    """Where units run. None of it may show in their output."""

    name: str
    workers: int

    @abstractmethod
    def shares(self, units: int) -> int:
        """Into how many shares so many units are dealt; the executor runs a task for each."""

    @abstractmethod
    def run(self, work: Work, note: Callable[[str], None]) -> Mapping[str, str]:
        """Run a task for each share, and come back when all ended; `note` is told how it goes.

        Gives the reasons that the scheduler has for units it did not bring to an end.
        """

    def withdraw(self, stage: Stage) -> None:  # noqa: B027 (most have nothing to do)
        """End what an earlier run of the stage, itself dead, left at work."""

    def facts(self) -> dict[str, Any]:
        """For run.json."""
        return {"executor": self.name, "workers": self.workers}


def executor_of(config: CorpusConfig) -> Executor:
    """The executor that a config names. Raises ConfigError where it cannot be had here."""
    if config.executor == "slurm":
        from data_prep.run.slurm_jobs import SlurmJobs

        return SlurmJobs(config.workers, config.slurm)
    if config.executor == "ray":
        from data_prep.run.ray_jobs import RayJobs

        return RayJobs(config.workers, config.ray)
    return _local(config.workers)


def _local(workers: int) -> Executor:
    from data_prep.run.local import LocalProcesses

    return LocalProcesses(workers)


@dataclass(frozen=True)
class StageReport:
    """How a run of a stage ended."""

    stage: str
    done: list[str]  # were done before
    ran: list[str]
    failed: dict[str, str]  # unit: reason


def run_stage(stage: Stage, on: Executor | int = 1) -> StageReport:
    """Do what is not done yet on an executor (a number: so many processes of this machine).

    Outputs of units that are no more are removed, and what a killed run left half-written. A unit that
    did not come to an end has a failure record when this returns, so that later stages know of it.
    """
    executor = _local(on) if isinstance(on, int) else on
    units = stage.units()
    _check_names(stage, units)
    stage.directory.mkdir(parents=True, exist_ok=True)
    executor.withdraw(stage)
    _remove_partials(stage, units)
    _remove_strangers(stage, units)
    done: list[Unit] = []
    todo: list[Unit] = []
    for unit in units:
        (done if is_done(stage, unit) else todo).append(unit)
    failed = _run(stage, executor, units, todo) if todo else {}
    if not todo:
        write_plan(stage.directory, stage.name, units, ())
    ran = [unit.name for unit in todo if unit.name not in failed]
    return StageReport(stage.name, [unit.name for unit in done], ran, failed)


def _run(
    stage: Stage, executor: Executor, units: Sequence[Unit], todo: Sequence[Unit]
) -> dict[str, str]:
    """Run the units to do; the reasons of those that failed."""
    directory = stage.directory
    for unit in todo:
        failure_path(directory, unit.name).unlink(missing_ok=True)
    stale = [unit.name for unit in todo if (directory / unit.name).exists()]
    plan = write_plan(directory, stage.name, units, stale)
    total = (len(units), sum(plan.units.values()))
    to_do = (len(todo), sum(unit.bytes for unit in todo))
    facts = executor.facts() | identity() | {"began": time.time()}
    facts |= {"units": total[0], "to_do": to_do[0], "to_do_bytes": to_do[1]}
    write_json(directory / RUN, facts)
    work = _deal(stage, todo, executor.shares(len(todo)))
    with follow(stage.name, total, lambda: tally(plan, states(directory, plan)).ended) as follower:

        def note(text: str) -> None:
            follower.note = text

        try:
            reasons = executor.run(work, note)
        finally:
            _remove_partials(stage, units)  # of tasks that were killed
    failed = _failures(stage, todo, reasons)
    write_plan(directory, stage.name, units, ())
    facts |= {"ended": time.time(), "ran": len(todo) - len(failed), "failed": len(failed)}
    write_json(directory / RUN, facts | executor.facts())
    return failed


def _failures(stage: Stage, todo: Sequence[Unit], reasons: Mapping[str, str]) -> dict[str, str]:
    """Why units have no output; those that a scheduler lost get their failure record here."""
    failed = {}
    for unit in todo:
        failure = failure_path(stage.directory, unit.name)
        if is_done(stage, unit):
            continue
        if not failure.exists():
            lost = "it was not brought to an end and left no reason (killed? disk full?)"
            record_failure(stage, unit, reasons.get(unit.name, lost))
        try:
            failed[unit.name] = read_json(failure)["error"]
        except (OSError, ValueError, KeyError):  # no room for it
            failed[unit.name] = reasons.get(unit.name, "it left no reason (disk full?)")
    return failed


def _deal(stage: Stage, units: Sequence[Unit], shares: int) -> Work:
    """Deal units into shares of like size and write them down for the tasks."""
    folder = stage.directory / ".datatrove"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "shares").mkdir(parents=True)
    dealt = deal(units, shares)
    for number, share in enumerate(dealt):
        path = folder / f"shares/{number}.json"
        path.write_bytes(canonical_json([asdict(unit) for unit in share]))
    return Work(stage, dealt, folder)


def deal(units: Sequence[Unit], shares: int) -> list[list[Unit]]:
    """Units in at most `shares` lists of like bytes: each unit, largest first, to the lightest list."""
    if shares >= len(units):
        return [[unit] for unit in units]
    dealt: list[list[Unit]] = [[] for _ in range(shares)]
    loads = [(0, number) for number in range(shares)]
    for unit in sorted(units, key=lambda unit: (-unit.bytes, unit.name)):
        load, number = heapq.heappop(loads)
        dealt[number].append(unit)
        heapq.heappush(loads, (load + max(unit.bytes, 1), number))
    return dealt


def _check_names(stage: Stage, units: Sequence[Unit]) -> None:
    (name, times), *_ = Counter(unit.name for unit in units).most_common(1) or [("", 0)]
    if times > 1:
        raise DataError(
            f"stage {stage.name}: two inputs give the same unit {name!r}; rename one of the files"
        )


def _remove_partials(stage: Stage, units: Sequence[Unit]) -> None:
    for folder in {(stage.directory / unit.name).parent for unit in units}:
        if folder.is_dir():
            remove_partials(folder)


def _remove_strangers(stage: Stage, units: Sequence[Unit]) -> None:
    """Remove the stage's results of units whose input is gone, so that no later stage reads them."""
    known = {unit.name for unit in units}
    sources = {source_of(name) for name in known}

    def strange(name: str) -> bool:
        return name not in known and not (stage.shared and source_of(name) not in sources)

    for result in finished(stage.directory):
        if result.record["stage"] == stage.name and strange(result.name):
            shutil.rmtree(result.folder)
    for failure in (stage.directory / FAILURES).rglob("*.json"):
        if strange(read_json(failure)["unit"]):
            failure.unlink()
