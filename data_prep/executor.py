"""Runs what is not done of a stage, as a datatrove pipeline under its local executor.

datatrove schedules; it does not decide: its own completion marks are not used, and a unit that fails is
recorded while the others go on.
"""

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger
from multiprocess import parent_process

from data_prep.errors import DataError
from data_prep.files import (
    canonical_json,
    folder_atomically,
    read_json,
    remove_partials,
    write_json,
)
from data_prep.progress import follow
from data_prep.units import FAILURES, Stage, Unit, execute, failure_path, finished, is_done

# Units report through their records; datatrove's own log lines would say it twice.
logger.disable("datatrove")


class UnitStep(PipelineStep):
    """Executes one unit per datatrove task; a unit's failure is recorded and never ends the run."""

    type = "biomed-pretrain"

    def __init__(self, stage: Stage, units: Path):
        super().__init__()
        self.name = stage.name
        self.stage = stage
        self.units = units

    def run(self, data=None, rank: int = 0, world_size: int = 1):  # type: ignore[no-untyped-def]
        unit = Unit(**read_json(self.units / f"{rank}.json"))
        with self.track_time():
            _execute_in_child(self.stage, unit) if parent_process() else execute(self.stage, unit)
        yield from ()


def _execute_in_child(stage: Stage, unit: Unit) -> None:
    """Execute a unit in a child: one that is killed is a failed unit, a killed pool worker a pool that waits."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            execute(stage, unit)
            code = 0
        finally:
            os._exit(code)
    os.waitpid(child, 0)


@dataclass(frozen=True)
class StageReport:
    """How a run of a stage ended."""

    stage: str
    done: list[str]  # were done before
    ran: list[str]
    failed: dict[str, str]  # unit: reason


def run_stage(stage: Stage, workers: int = 1) -> StageReport:
    """Do what is not done yet, in `workers` processes; outputs of units that are no more are removed."""
    units = stage.units()
    _check_names(stage, units)
    stage.directory.mkdir(parents=True, exist_ok=True)
    for folder in {(stage.directory / unit.name).parent for unit in units}:
        if folder.is_dir():
            remove_partials(folder)
    _remove_strangers(stage, {unit.name for unit in units})
    began = time.time()
    done: list[Unit] = []
    todo: list[Unit] = []
    for unit in units:
        (done if is_done(stage, unit) else todo).append(unit)
    if todo:
        with follow(stage.name, [(unit.bytes, _finished_test(stage, unit)) for unit in todo]):
            _run_units(stage, todo, workers)
    failed = {}
    for unit in todo:
        failure = failure_path(stage.directory, unit.name)
        if failure.exists():
            failed[unit.name] = read_json(failure)["error"]
        elif not is_done(stage, unit):
            failed[unit.name] = (
                "it was not finished and left no reason (killed? out of memory? disk full?)"
            )
    ran = [unit.name for unit in todo if unit.name not in failed]
    if todo:
        _note_run(stage, workers, began, len(ran), len(failed))
    return StageReport(stage.name, [unit.name for unit in done], ran, failed)


def _note_run(stage: Stage, workers: int, began: float, ran: int, failed: int) -> None:
    """How the last run went: what no output may depend on."""
    facts = {"executor": "local", "workers": workers, "began": began, "ended": time.time()}
    write_json(stage.directory / "run.json", facts | {"ran": ran, "failed": failed})


def _finished_test(stage: Stage, unit: Unit) -> Callable[[], bool]:
    failure = failure_path(stage.directory, unit.name)
    failure.unlink(missing_ok=True)
    return lambda: failure.exists() or is_done(stage, unit)


def _check_names(stage: Stage, units: Sequence[Unit]) -> None:
    (name, times), *_ = Counter(unit.name for unit in units).most_common(1) or [("", 0)]
    if times > 1:
        raise DataError(
            f"stage {stage.name}: two inputs give the same unit {name!r}; rename one of the files"
        )


def _remove_strangers(stage: Stage, names: Iterable[str]) -> None:
    """Remove the stage's results of units whose input is gone, so that no later stage reads them."""
    known = set(names)
    for result in finished(stage.directory):
        if result.record["stage"] == stage.name and result.name not in known:
            shutil.rmtree(result.folder)
    for failure in (stage.directory / FAILURES).rglob("*.json"):
        if read_json(failure)["unit"] not in known:
            failure.unlink()


def _run_units(stage: Stage, units: Sequence[Unit], workers: int) -> None:
    """Run the units in up to `workers` processes, each unit a task of its own."""
    # A file each: datatrove sends the whole step along with every task.
    folder = stage.directory / ".datatrove"
    with folder_atomically(folder / "units") as partial:
        for number, unit in enumerate(units):
            (partial / f"{number}.json").write_bytes(canonical_json(asdict(unit)))
    executor = LocalPipelineExecutor(
        pipeline=[UnitStep(stage, folder / "units")],
        tasks=len(units),
        workers=min(workers, len(units)),
        logging_dir=str(folder),
        skip_completed=False,
    )
    executor.run()
