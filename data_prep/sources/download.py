"""The stage download: an inventory of local folders, a verified copy of remote ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from data_prep.config import CorpusConfig, Source
from data_prep.documents import read_json_lines
from data_prep.errors import DataError
from data_prep.executor import StageReport
from data_prep.files import write_json
from data_prep.sources.inventory import (
    HashCache,
    find_files,
    inspect_files,
    manifest_path,
    source_folder,
    write_rows,
)
from data_prep.sources.mirror import mirror
from data_prep.sources.transfer import Patience, Session
from data_prep.units import FAILURES, failure_path, failures

NAME = "download"


def download(config: CorpusConfig, patience: Patience | None = None) -> StageReport:
    """Bring every source's manifest up to date; the report names each file `source/name`.

    A file that is broken, or a source whose server does not answer, fails alone. Raises ConfigError,
    before anything is fetched, where a local folder is missing or has no file of its format.
    """
    local = {
        name: find_files(source.path, source.format, f"sources.{name}.path")
        for name, source in config.sources.items()
        if source.path
    }
    report = StageReport(NAME, done=[], ran=[], failed={})
    directory = config.downloads
    shutil.rmtree(directory / FAILURES, ignore_errors=True)
    for name, source in sorted(config.sources.items()):
        manifest = manifest_path(config, name)
        previous = list(read_json_lines(manifest)) if manifest.exists() else []
        try:
            if source.path:
                cache = HashCache(source_folder(config, name) / "hashes.jsonl")
                rows, changed = inspect_files(source.path, local[name], cache, config.workers)
            else:
                rows, changed = _mirror(
                    name, source, source_folder(config, name), previous, patience
                )
        except DataError as error:
            report.failed[name] = str(error)
            write_json(failure_path(directory, name), {"unit": name, "error": str(error)})
            continue
        write_rows(manifest, rows)
        _add(report, name, rows, changed)
    return report


def failed_downloads(config: CorpusConfig, source: str) -> list[str]:
    """What the last run did not get of a source: `source/name` of files, `source` where it failed whole."""
    manifest = manifest_path(config, source)
    rows = read_json_lines(manifest) if manifest.exists() else ()
    whole = [name for name in failures(config.downloads) if name == source]
    return whole + [f"{source}/{row['name']}" for row in rows if row["state"] != "ok"]


def _mirror(
    name: str,
    source: Source,
    folder: Path,
    previous: list[dict[str, Any]],
    patience: Patience | None,
) -> tuple[list[dict[str, Any]], set[str]]:
    session = Session(patience or Patience())
    try:
        return mirror(session, f"{NAME} {name}", source.url, source.format, folder, previous)
    finally:
        session.close()


def _add(report: StageReport, source: str, rows: list[dict[str, Any]], changed: set[str]) -> None:
    for row in rows:
        unit = f"{source}/{row['name']}"
        if row["state"] != "ok":
            report.failed[unit] = row["reason"]
        elif row["name"] in changed:
            report.ran.append(unit)
        else:
            report.done.append(unit)
