"""Units of work: what a stage does, remembered by content, run by datatrove.

A unit's output is a folder that appears under its name only when whole, with a `unit.json` that says which
inputs, settings and code version made it. A unit counts as done only if that record matches and its
files are there; logs and markers count for nothing.
"""

import hashlib
import os
import shutil
import traceback
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.errors import ProjectError
from data_prep.files import (
    canonical_json,
    folder_atomically,
    read_json,
    sha256_file,
    write_json,
)

RECORD = "unit.json"
FAILURES = "failed"


@dataclass(frozen=True)
class Unit:
    """One piece of a stage's work; `inputs` (name: content hash) decides whether it is done already."""

    name: str
    inputs: dict[str, str]
    bytes: int  # size of the input, for progress
    payload: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class UnitResult:
    """A finished unit on disk."""

    name: str
    folder: Path
    record: dict[str, Any]

    @cached_property
    def hash(self) -> str:
        """Hash of everything that made the output, and of the output: the next stage's input hash."""
        return hashlib.sha256(canonical_json(self.record)).hexdigest()

    @property
    def counts(self) -> dict[str, Any]:
        return self.record["counts"]

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        return self.record["files"]


class Stage(ABC):
    """A kind of work; see the module's text and docs/architecture.md."""

    name: str
    version: int
    settings: dict[str, Any]
    directory: Path
    shared = False  # whether other corpora keep their sources' units in the same folder

    @abstractmethod
    def units(self) -> list[Unit]:
        """The units there are now, sorted by name."""

    @abstractmethod
    def run_unit(self, unit: Unit, folder: Path) -> dict[str, Any]:
        """Write the unit's files into `folder` and return its counts: a pure function of its inputs."""

    def prepare(self) -> None:
        """Load what every unit needs, once in a process that then starts one for each of many units."""
        pa.array([""])  # at its first array Arrow imports pandas, which takes 0.1 s

    def expected_record(self, unit: Unit) -> dict[str, Any]:
        return {
            "stage": self.name,
            "version": self.version,
            "unit": unit.name,
            "inputs": unit.inputs,
            "settings": self.settings,
        }


def is_done(stage: Stage, unit: Unit) -> bool:
    """Whether the unit's output exists, whole, made from these inputs by these settings."""
    folder = stage.directory / unit.name
    try:
        record = read_json(folder / RECORD)
        expected = stage.expected_record(unit)
        return {key: record[key] for key in expected} == expected and all(
            (folder / name).stat().st_size == about["bytes"]
            for name, about in record["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def execute(stage: Stage, unit: Unit) -> None:
    """Run one unit; its folder and record appear whole, or a failure record does."""
    folder = stage.directory / unit.name
    try:
        with folder_atomically(folder) as partial:
            counts = stage.run_unit(unit, partial)
            files = {
                str(path.relative_to(partial)): {
                    "bytes": path.stat().st_size,
                    "sha256": sha256_file(path),
                }
                for path in sorted(partial.rglob("*"))
                if path.is_file()
            }
            write_json(
                partial / RECORD, stage.expected_record(unit) | {"counts": counts, "files": files}
            )
    except Exception as error:
        record_failure(stage, unit, _reason(error))
    else:
        failure_path(stage.directory, unit.name).unlink(missing_ok=True)


def record_failure(stage: Stage, unit: Unit, reason: str) -> None:
    """Write down why a unit has no output, in place of the output that an earlier input gave."""
    shutil.rmtree(stage.directory / unit.name, ignore_errors=True)
    # On a full disk there may be no room for the reason either: then the lack of both is reported.
    with suppress(OSError):
        write_json(
            failure_path(stage.directory, unit.name),
            stage.expected_record(unit) | {"error": reason},
        )


def _reason(error: Exception) -> str:
    if isinstance(error, ProjectError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or ''}: {error.strerror or error}".lstrip(": ")
    return traceback.format_exc()


def source_of(unit: str) -> str:
    """The source that a unit belongs to: the first part of its name."""
    return unit.partition("/")[0]


def failure_path(directory: Path, name: str) -> Path:
    """Where the reason of a unit's failure is written."""
    return directory / FAILURES / f"{name}.json"


def finished(directory: Path) -> list[UnitResult]:
    """The finished units below a stage's folder, sorted by name."""
    results = []
    for parent, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if not name.startswith(".") and name != FAILURES]
        if RECORD in files:
            folders.clear()
            folder = Path(parent)
            results.append(
                UnitResult(str(folder.relative_to(directory)), folder, read_json(folder / RECORD))
            )
    return sorted(results, key=lambda result: result.name)


def failures(directory: Path) -> dict[str, str]:
    """Units of a stage's folder that failed, with the reason."""
    records = [read_json(path) for path in sorted((directory / FAILURES).rglob("*.json"))]
    return {record["unit"]: record["error"] for record in records}
