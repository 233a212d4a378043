"""What the stages before packing left: the curated units, by which rules, and what is missing."""

from collections.abc import Iterator
from typing import Any

from data_prep.config import CorpusConfig
from data_prep.curate.decontaminate import DecontaminateStage
from data_prep.curate.identity import IdentifyStage
from data_prep.curate.near_duplicates import NearDuplicatesStage
from data_prep.curate.stage import CurateStage
from data_prep.errors import DataError
from data_prep.units import Stage, UnitResult, failures, finished, source_of

STAGES = ("extract", "signatures", "decontaminate", "curate", "pack")


def curated_units(config: CorpusConfig) -> list[UnitResult]:
    """The curated units of the config's sources.

    Raises DataError where they, or the decisions behind them, were made by other settings than the
    config's: the shards would be called what they are not.
    """
    stage = CurateStage(config)
    units = [unit for unit in finished(stage.directory) if source_of(unit.name) in config.sources]
    if units:
        _check_settings(stage, units)
        for deciding in _deciding(config):
            decided = [
                unit
                for unit in finished(deciding.directory)
                if unit.record["stage"] == deciding.name
            ]
            _check_settings(deciding, decided)
    return units


def _deciding(config: CorpusConfig) -> Iterator[Stage]:
    """The stages whose decisions the config's curation carries out."""
    yield IdentifyStage(config)
    if config.curate.near_duplicates:
        yield NearDuplicatesStage(config)
    if config.curate.decontaminate:
        yield DecontaminateStage(config)


def curation_settings(config: CorpusConfig) -> dict[str, Any]:
    """The settings that the units of `curated_units` were made by; a file is named, not located."""
    values = config.curate.model_dump(mode="json")
    values["since"] = config.curate.since is not None
    if config.curate.decontaminate:
        for benchmark in values["decontaminate"]["benchmarks"]:
            del benchmark["path"]
    # The order in which lists were written does not matter.
    return {
        name: sorted(value) if isinstance(value, list) else value for name, value in values.items()
    }


def _check_settings(stage: Stage, units: list[UnitResult]) -> None:
    for unit in units:
        found = unit.record["settings"]
        if found != stage.settings:
            raise DataError(
                f"{unit.folder}: curated with other settings than the config's "
                f"({', '.join(_differing(found, stage.settings))}); run the stage curate"
            )


def _differing(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Names of the settings that differ, those within a group without its name."""
    names = []
    for name in sorted(found.keys() | expected.keys()):
        ours, theirs = expected.get(name), found.get(name)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            names += _differing(theirs, ours)
        elif ours != theirs:
            names.append(name)
    return names


def missing_inputs(config: CorpusConfig, source: str) -> list[str]:
    """The "stage/unit" of everything that failed on the way from the source to its packed units."""
    from data_prep.download.stage import failed_downloads  # with clients for every server there is

    failed = [
        f"{stage}/{name}"
        for stage in STAGES
        for name in failures(config.extracted if stage == "extract" else config.output / stage)
        if source_of(name) == source
    ]
    return [*(f"download/{name}" for name in failed_downloads(config, source)), *failed]
