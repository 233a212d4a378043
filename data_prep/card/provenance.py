"""Where a corpus's text came from, as far as a reader elsewhere can follow it."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_prep.documents import read_json_lines
from data_prep.sources.extract_units import nlm_order

CONFIG = "config.yaml"  # the resolved config, beside what it made


@dataclass(frozen=True)
class Provenance:
    """A source: what it is, its files and their bytes, and the day on which they were last looked at."""

    source: str
    format: str
    origin: str
    files: int
    bytes: int
    failed: int
    day: str
    releases: list[str]  # of PubMed: "2026: files 1 to 1514"


def read_provenance(folder: Path) -> tuple[Path, list[Provenance]]:
    """The folder of downloads and extracted documents, and each source's provenance."""
    path = folder / CONFIG
    config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    raw = Path(config.get("raw") or folder)
    sources = config.get("sources") or {}
    return raw, [_provenance(raw / "download" / name, about) for name, about in sources.items()]


def _provenance(folder: Path, about: dict[str, Any]) -> Provenance:
    manifest = folder / "manifest.jsonl"
    rows = list(read_json_lines(manifest)) if manifest.is_file() else []
    whole = [row for row in rows if row["state"] == "ok"]
    day = ""
    if manifest.is_file():
        written = datetime.datetime.fromtimestamp(manifest.stat().st_mtime, datetime.UTC)
        day = written.date().isoformat()
    return Provenance(
        folder.name,
        about["format"],
        _origin(about),
        len(whole),
        sum(row["bytes"] for row in whole),
        len(rows) - len(whole),
        day,
        _releases([row["name"] for row in whole]) if about["format"] == "pubmed" else [],
    )


def _origin(about: dict[str, Any]) -> str:
    """What the text was taken from; a local folder's path means nothing elsewhere."""
    if about.get("url"):
        return ", ".join(about["url"])
    for kind in ("bucket", "release", "dataset"):
        if about.get(kind):
            where = about[kind].get("endpoint")
            return f"{kind} {about[kind]['name']}" + (f" at {where}" if where else "")
    return "local files"


def _releases(names: Sequence[str]) -> list[str]:
    """Numbers of PubMed's files by year, in runs: "2026: files 1 to 1334, 1336"."""
    numbers: dict[int, list[int]] = {}
    for order in filter(None, map(nlm_order, names)):
        numbers.setdefault(order[0], []).append(order[1])
    return [f"{year}: files {_runs(sorted(found))}" for year, found in sorted(numbers.items())]


def _runs(numbers: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{low} to {high}" if high > low else str(low) for low, high in runs)
