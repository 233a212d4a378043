"""Runs a stage's units as a datatrove pipeline under its local executor."""

from collections.abc import Sequence

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from data_prep.units import Stage, Unit, execute

# Units report through their records; datatrove's own log lines would say it twice.
logger.disable("datatrove")


class UnitStep(PipelineStep):
    """Executes one unit per datatrove task; a unit's failure is recorded and never ends the run."""

    type = "biomed-pretrain"

    def __init__(self, stage: Stage, units: Sequence[Unit]):
        super().__init__()
        self.name = stage.name
        self.stage = stage
        self.units = list(units)

    def run(self, data=None, rank: int = 0, world_size: int = 1):  # type: ignore[no-untyped-def]
        for unit in self.units[rank::world_size]:
            with self.track_time():
                execute(self.stage, unit)
        yield from ()


def run_units(stage: Stage, units: Sequence[Unit], workers: int) -> None:
    """Run the units in up to `workers` processes, each unit a task of its own."""
    executor = LocalPipelineExecutor(
        pipeline=[UnitStep(stage, units)],
        tasks=len(units),
        workers=min(workers, len(units)),
        logging_dir=str(stage.directory / ".datatrove"),
        skip_completed=False,
    )
    executor.run()
