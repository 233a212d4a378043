"""What the reduces of curation decided about an extracted unit, for the steps that come after them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import DataError
from data_prep.units import UnitResult, finished


@dataclass(frozen=True)
class DecisionsFile:
    """A file in the format of decisions.py."""

    path: Path
    sha256: str


class Reduces:
    """The finished reduces of several steps; each has one unit, with `decisions/<unit>.parquet` in it."""

    def __init__(self, directories: Sequence[Path]):
        """Raises DataError where a step has not decided yet."""
        self._results = [_only(directory) for directory in directories]

    def decisions(self, unit: str) -> list[DecisionsFile]:
        """Of each step, in order, what it decided about an extracted unit.

        Raises DataError where a step did not see the unit.
        """
        return [_file(result, unit) for result in self._results]


def decisions_name(unit: str) -> str:
    """Where in a reduce's one unit the decisions about an extracted unit are."""
    return f"decisions/{unit}.parquet"


def _only(directory: Path) -> UnitResult:
    results = finished(directory)
    if not results:
        raise DataError(f"{directory}: no decisions yet; run the stage curate again")
    return results[0]


def _file(result: UnitResult, unit: str) -> DecisionsFile:
    name = decisions_name(unit)
    if name not in result.files:
        raise DataError(
            f"{result.folder}: decided before {unit} was extracted; run the stage curate again"
        )
    return DecisionsFile(result.folder / name, result.files[name]["sha256"])
