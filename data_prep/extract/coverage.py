"""The coverage gate: a PubMed file that suddenly has fewer titles, abstracts, PMIDs or years fails.

NLM changes its files now and then, and a reader that misses a renamed element raises no error: it gives
documents without abstracts. So of every file the shares of its records with each of the four are compared
with those of the last good run: with the same file's, else with those of the file of the same number of the
latest other year (baseline files are cut anew each year, but in the same order), else with those of all known
files of the source together. Rejected records count as records that have nothing.

A share that is lower by more than the source's `coverage_tolerance` (absolute: 0.1 allows 0.65 after 0.75)
fails the unit; higher shares never do. Files of fewer than SMALL records say too little: of them, as of files with nothing
to be compared with, only that some record has a title, and only from FEWEST records on. An update file that
is, rightly, mostly old citations without abstracts may fail too: look at it, then raise the tolerance.

The shares are kept in `extract/coverage/<source>.json`, a row for each unit that ended well; those are brought up
to date from the finished units whenever the stage begins, before it replaces any. They decide whether a
unit fails and never what it writes.
"""

import re
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import read_json, write_json
from data_prep.source_config import Source
from data_prep.units import finished, source_of

SMALL = 100  # records; among 100 a share of one half has a standard deviation of 0.05
FEWEST = 10
SHARES = ("pmid", "title", "abstract", "year")  # a rejected record lacks all: the first is named

_YEAR = re.compile(r"(?<=pubmed)\d\d(?=n\d)")


class CoverageGate:
    """What the files of one source are held against; see the module's text.

    `units` are the names of the source's units now. Writes the shares of finished ones into `extracted`.
    """

    def __init__(self, extracted: Path, source: str, about: Source, units: list[str]):
        self._source, self._tolerance = source, about.coverage_tolerance
        self._known: dict[str, dict[str, int]] | None = None
        if about.format == "pubmed":
            self._known = _known_files(extracted, source, units)

    def expected(self, unit: str) -> dict[str, Any] | None:
        """What `check_coverage` needs to know about a unit; None where nothing is checked."""
        if self._known is None:
            return None
        others = [name for name in self._known if _any_year(name) == _any_year(unit)]
        if unit in self._known:
            reference, shares = "it", _shares(self._known[unit])
        elif others:
            reference = max(others)
            shares = _shares(self._known[reference])
        else:
            reference = f"all files of {self._source}"
            shares = _shares(_together(self._known.values()))
        return {
            "reference": reference,
            "shares": shares,
            "source": self._source,
            "tolerance": self._tolerance,
        }


def _known_files(extracted: Path, source: str, units: list[str]) -> dict[str, dict[str, int]]:
    path = extracted / "coverage" / f"{source}.json"
    before: dict[str, dict[str, int]] = read_json(path) if path.exists() else {}
    now = {
        unit.name: coverage(unit.counts)
        for unit in finished(extracted)
        if source_of(unit.name) == source
    }
    known = before | {name: found for name, found in now.items() if found["records"] >= SMALL}
    # A file that is gone stands in for next year's until that one is known.
    current = {_any_year(name) for name in known if name in units}
    known = {
        name: found
        for name, found in sorted(known.items())
        if name in units or _any_year(name) not in current
    }
    if known != before:
        write_json(path, known)
    return known


def _any_year(unit: str) -> str:
    return _YEAR.sub("..", unit)


def coverage(counts: dict[str, Any]) -> dict[str, int]:
    """Records of a unit, and how many of them have a title, an abstract, a PMID, a year."""
    found = {share: counts.get(f"with_{share}", 0) for share in SHARES}
    return {"records": counts.get("documents", 0) + counts.get("rejects", 0)} | found


def _together(files: Any) -> dict[str, int]:
    total = dict.fromkeys(("records", *SHARES), 0)
    for found in files:
        total = {name: number + found[name] for name, number in total.items()}
    return total


def _shares(found: dict[str, int]) -> dict[str, float] | None:
    if not found["records"]:
        return None
    return {share: found[share] / found["records"] for share in SHARES}


def check_coverage(unit: str, counts: dict[str, Any], expected: dict[str, Any] | None) -> None:
    """Raise DataError where a unit has less in it than `expected` allows."""
    if expected is None:
        return
    found = coverage(counts)
    records = found["records"]
    if records >= FEWEST and not found["title"]:
        raise DataError(
            f"{unit}: none of {records:,} records has a title, expected some; the file is damaged or its "
            "format has changed: look at its documents before you use it"
        )
    before = expected["shares"]
    if records < SMALL or before is None:
        return
    shares = _shares(found) or {}
    for share in SHARES:
        if shares[share] < before[share] - expected["tolerance"]:
            raise DataError(
                f"{unit}: {shares[share]:.1%} of {records:,} records have a field {share!r}, in the last good run "
                f"{expected['reference']} had {before[share]:.1%}; if the file is right, raise "
                f"sources.{expected['source']}.coverage_tolerance above {before[share] - shares[share]:.2f}"
            )
