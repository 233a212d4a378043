"""What a stage has to do, written down, so that anybody can see how far it is without doing anything.

`<stage>/plan.json` lists the stage's units and `run.json` says who runs them how. Where a unit stands is
seen from the names in the stage's folders alone, quick for tens of thousands; whether it is done
is decided by its unit.json and nothing here.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_prep.files import canonical_json, read_json, write_atomically
from data_prep.units import FAILURES, Unit, source_of

PLAN = "plan.json"
RUN = "run.json"
PARTIAL = ".partial"

State = Literal["done", "failed", "running", "to do"]
STATES: tuple[State, ...] = ("done", "failed", "running", "to do")


@dataclass(frozen=True)
class Plan:
    """The units of a stage, with the size of their input in bytes."""

    stage: str
    units: Mapping[str, int]
    stale: frozenset[str]  # have the output of earlier inputs or settings, until it is replaced
    written: float  # as the file system's clock says


@dataclass(frozen=True)
class Tally:
    """Units and bytes of input in each state."""

    units: Mapping[State, int]
    bytes: Mapping[State, int]

    @property
    def ended(self) -> tuple[int, int]:
        """Units and bytes that are done or failed."""
        return (
            self.units["done"] + self.units["failed"],
            self.bytes["done"] + self.bytes["failed"],
        )


def write_plan(directory: Path, stage: str, units: Sequence[Unit], stale: Iterable[str]) -> Plan:
    """Write the plan down if it is not what stands there, and return it."""
    plan = {
        "stage": stage,
        "units": {unit.name: unit.bytes for unit in units},
        "stale": sorted(stale),
    }
    content = canonical_json(plan)
    path = directory / PLAN
    # A plan with stale units is known by its time: it is written anew.
    if plan["stale"] or not path.exists() or path.read_bytes() != content:
        with write_atomically(path) as partial:
            partial.write_bytes(content)
    return _as_plan(plan, path)


def read_plan(directory: Path) -> Plan | None:
    """The plan of a stage's last run; None where there is none."""
    path = directory / PLAN
    try:
        return _as_plan(read_json(path), path)
    except FileNotFoundError:
        return None


def _as_plan(values: dict[str, Any], path: Path) -> Plan:
    return Plan(values["stage"], values["units"], frozenset(values["stale"]), path.stat().st_mtime)


def states(directory: Path, plan: Plan) -> dict[str, State]:
    """Where each planned unit stands now."""
    failed = _failed(directory)
    present: dict[str, float] = {}
    running: set[str] = set()
    for parent in {name.rpartition("/")[0] for name in plan.units}:
        _look_into(directory, parent, plan.stale, present, running)
    found: dict[str, State] = {}
    for name in plan.units:
        if name in present and (name not in plan.stale or present[name] >= plan.written):
            found[name] = "done"
        elif name in failed:
            found[name] = "failed"
        else:
            found[name] = "running" if name in running else "to do"
    return found


def _look_into(
    directory: Path,
    parent: str,
    stale: frozenset[str],
    present: dict[str, float],
    running: set[str],
) -> None:
    prefix = f"{parent}/" if parent else ""
    try:
        entries = os.scandir(directory / parent)
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            if entry.name.endswith(PARTIAL):  # .NAME.RANDOM.partial
                running.add(prefix + entry.name[1:].removesuffix(PARTIAL).rpartition(".")[0])
            else:
                name = prefix + entry.name
                with suppress(FileNotFoundError):  # replaced at this moment
                    present[name] = entry.stat().st_mtime if name in stale else 0.0


def _failed(directory: Path) -> set[str]:
    folder = directory / FAILURES
    return {
        path.relative_to(folder).as_posix().removesuffix(".json") for path in folder.rglob("*.json")
    }


def tally(plan: Plan, found: Mapping[str, State], source: str | None = None) -> Tally:
    """Count units and bytes by state, of one source or of all."""
    units: Counter[State] = Counter()
    size: Counter[State] = Counter()
    for name, state in found.items():
        if source is None or source_of(name) == source:
            units[state] += 1
            size[state] += plan.units[name]
    return Tally(units, size)
