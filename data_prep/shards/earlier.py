"""What the stages before packing left: the curated units, by which rules, and what is missing."""

from typing import Any

from data_prep.config import CorpusConfig
from data_prep.curate.identity import IdentifyStage
from data_prep.curate.stage import CurateStage
from data_prep.errors import DataError
from data_prep.sources.download import failed_downloads
from data_prep.units import Stage, UnitResult, failures, finished, source_of

STAGES = ("extract", "curate", "pack")


def curated_units(config: CorpusConfig) -> list[UnitResult]:
    """The curated units of the config's sources.

    Raises DataError where they, or the decisions behind them, were made by other settings than the
    config's: the shards would be called what they are not.
    """
    stage = CurateStage(config)
    units = [unit for unit in finished(stage.directory) if source_of(unit.name) in config.sources]
    if units:
        decisions = IdentifyStage(config)
        _check_settings(stage, units)
        _check_settings(decisions, finished(decisions.directory))
    return units


def curation_settings(config: CorpusConfig) -> dict[str, Any]:
    """The settings that the units of `curated_units` were made by."""
    return CurateStage(config).settings | {"drop_retracted": config.curate.drop_retracted}


def _check_settings(stage: Stage, units: list[UnitResult]) -> None:
    for unit in units:
        found = unit.record["settings"]
        if found != stage.settings:
            names = found.keys() | stage.settings.keys()
            differing = sorted(n for n in names if found.get(n) != stage.settings.get(n))
            raise DataError(
                f"{unit.folder}: curated with other settings than the config's "
                f"({', '.join(differing)}); run the stage curate"
            )


def missing_inputs(config: CorpusConfig, source: str) -> list[str]:
    """The "stage/unit" of everything that failed on the way from the source to its packed units."""
    failed = [
        f"{stage}/{name}"
        for stage in STAGES
        for name in failures(config.extracted if stage == "extract" else config.output / stage)
        if source_of(name) == source
    ]
    return [*(f"download/{name}" for name in failed_downloads(config, source)), *failed]
