"""Where a corpus's text came from, as far as a reader elsewhere can follow it."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.config import CorpusConfig
from data_prep.config_file import load_config
from data_prep.documents import read_json_lines
from data_prep.download.inventory import manifest_path
from data_prep.extract.units import nlm_order
from data_prep.source_config import Source
from data_prep.status import CONFIG


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


def read_config(folder: Path) -> CorpusConfig | None:
    """The config that made the corpus in `folder`, wherever that was then; None where it is not there."""
    path = folder / CONFIG
    if not path.is_file():
        return None
    return load_config(CorpusConfig, path, []).model_copy(update={"output": folder})


def read_provenance(config: CorpusConfig) -> list[Provenance]:
    """Each source's provenance."""
    return [_provenance(config, name) for name in config.sources]


def _provenance(config: CorpusConfig, name: str) -> Provenance:
    source, manifest = config.sources[name], manifest_path(config, name)
    files = size = failed = 0
    orders: list[tuple[int, int]] = []
    day = ""
    if manifest.is_file():
        written = datetime.datetime.fromtimestamp(manifest.stat().st_mtime, datetime.UTC)
        day = written.date().isoformat()
        for row in read_json_lines(manifest):  # of some sources a line an article
            if row["state"] != "ok":
                failed += 1
                continue
            files += 1
            size += row["bytes"]
            if source.format == "pubmed" and (order := nlm_order(row["name"])):
                orders.append(order)
    return Provenance(
        name, source.format, _origin(source), files, size, failed, day, _releases(orders)
    )


def _origin(source: Source) -> str:
    """What the text was taken from; a local folder's path means nothing elsewhere."""
    if source.url:
        return ", ".join(source.url)
    if source.bucket:
        where = f" at {source.bucket.endpoint}" if source.bucket.endpoint else ""
        return f"bucket {source.bucket.name}{where}"
    if source.release:
        return f"release {source.release.name} of {source.release.dataset}, Semantic Scholar"
    return f"dataset {source.dataset.name}" if source.dataset else "local files"


def _releases(orders: Sequence[tuple[int, int]]) -> list[str]:
    """Numbers of PubMed's files by year, in runs: "2026: files 1 to 1334, 1336"."""
    numbers: dict[int, list[int]] = {}
    for year, number in orders:
        numbers.setdefault(year, []).append(number)
    return [f"{year}: files {_runs(sorted(found))}" for year, found in sorted(numbers.items())]


def _runs(numbers: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{low} to {high}" if high > low else str(low) for low, high in runs)
