"""RUN/ledger.jsonl: everything that changes the order of a run on purpose, one line each.

    {"event": "phase", "step": 1000, "weights": {"papers": 1, "books": 4}, "global_batch": 1024}
    {"event": "skip", "step": 5120, "steps": 8, "reason": "loss 11.2 after 2.1"}
    {"event": "bad_row_group", "step": 7000, "source": "papers", "group": 81, "reason": "…: checksum is …"}

`step` counts completed steps: the entry holds for the step after it and all later ones. The order of a run is
a pure function of its seed, its shard sets, its settings and this file.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import orjson
from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from data_prep.documents import read_json_lines
from data_prep.errors import DataError
from data_prep.files import write_atomically

LEDGER = "ledger.jsonl"
# People write entries too: a number in quotes or a misspelt key must not pass.
CHECKED = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=CHECKED)
class PhaseEntry:
    """Other weights of the mixture, or another global batch, from a step on; None: as before.

    A source that `weights` leaves out is not read.
    """

    event: ClassVar[str] = "phase"
    step: int
    weights: dict[str, int] | None = None
    global_batch: int | None = None


@dataclass(frozen=True, config=CHECKED)
class SkipEntry:
    """The sequences of the next `steps` steps are passed over."""

    event: ClassVar[str] = "skip"
    step: int
    steps: int
    reason: str


@dataclass(frozen=True, config=CHECKED)
class BadRowGroup:
    """The rows of a row group of a source are left out of their batches."""

    event: ClassVar[str] = "bad_row_group"
    step: int
    source: str
    group: int  # in the source's shard set
    reason: str


Entry = PhaseEntry | SkipEntry | BadRowGroup
KINDS: dict[str, type[Entry]] = {kind.event: kind for kind in (PhaseEntry, SkipEntry, BadRowGroup)}


def read_ledger(run: Path) -> list[Entry]:
    """The entries of a run's ledger, in order of their steps; none where there is no file.

    Raises DataError naming the line that is no entry.
    """
    path = run / LEDGER
    if not path.exists():
        return []
    entries: list[Entry] = []
    for number, line in enumerate(read_json_lines(path), 1):
        try:
            fields = dict(line)
            entries.append(KINDS[fields.pop("event", None)](**fields))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: line {number}: not an entry of a ledger ({_fault(error)}); see docs/formats.md, or "
                "restore the file from a copy"
            ) from error
    return in_order(entries)


def _fault(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return f"unknown event {error}" if isinstance(error, KeyError) else str(error)


def write_ledger(run: Path, entries: Sequence[Entry]) -> None:
    """Replace the run's ledger as a whole."""
    with write_atomically(run / LEDGER) as partial:
        partial.write_bytes(b"".join(orjson.dumps(as_json(entry)) + b"\n" for entry in entries))


def as_json(entry: Entry) -> dict[str, Any]:
    return {"event": entry.event} | asdict(entry)


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """By step; entries of one step stay in the order in which they were made."""
    return sorted(entries, key=lambda entry: entry.step)
