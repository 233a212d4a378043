"""The stage download: an inventory of local folders, verified copies of what is elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_prep.config import CorpusConfig, Source
from data_prep.documents import read_json_lines
from data_prep.download.inventory import (
    HashCache,
    find_files,
    inspect_files,
    manifest_path,
    source_folder,
    write_rows,
)
from data_prep.download.mirror import Rows, is_listing
from data_prep.download.transfer import Patience
from data_prep.errors import DataError, explain
from data_prep.files import write_json
from data_prep.run.executor import StageReport
from data_prep.units import FAILURES, failure_path, failures

NAME = "download"

Fetch = Callable[[str, Source, Path, Rows, Patience], tuple[Rows, set[str]]]
"""Brings the files of a source up to date.

Given the title of its progress bar, the source, its folder (files go to `files/` in it) and the manifest rows of
the last run, it returns the manifest rows of now and the names of the files that are new or changed. A file
that cannot be had has a row with state "failed" and the reason; DataError is for the whole source.
"""


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
    _forget_failures(config)
    for name, source in sorted(config.sources.items()):
        manifest = manifest_path(config, name)
        previous = list(read_json_lines(manifest)) if manifest.exists() else []
        try:
            if source.path:
                cache = HashCache(source_folder(config, name) / "hashes.jsonl")
                rows, changed = inspect_files(source.path, local[name], cache, config.workers)
            else:
                rows, changed = fetch_of(source)(
                    f"{NAME} {name}",
                    source,
                    source_folder(config, name),
                    previous,
                    patience or Patience(),
                )
        except (DataError, OSError) as error:
            reason = explain(error) or str(error)
            report.failed[name] = reason
            write_json(failure_path(directory, name), {"unit": name, "error": reason})
            continue
        write_rows(manifest, rows)
        _add(report, name, rows, changed)
    return report


def _forget_failures(config: CorpusConfig) -> None:
    """Remove what is remembered of sources that failed; those of other corpora in a shared folder stay."""
    if config.raw is None:
        shutil.rmtree(config.downloads / FAILURES, ignore_errors=True)
    for name in config.sources:
        failure_path(config.downloads, name).unlink(missing_ok=True)


def failed_downloads(config: CorpusConfig, source: str) -> list[str]:
    """What the last run did not get of a source: `source/name` of files, `source` where it failed whole."""
    manifest = manifest_path(config, source)
    rows = read_json_lines(manifest) if manifest.exists() else ()
    whole = [name for name in failures(config.downloads) if name == source]
    return whole + [f"{source}/{row['name']}" for row in rows if row["state"] != "ok"]


def fetch_of(source: Source) -> Fetch:
    """What fetches the files of a source that is not a local folder."""
    # Imported here, as each origin needs libraries that no other does.
    if source.bucket:
        from data_prep.download.pmc import bucket

        return bucket.fetch
    if source.release:
        from data_prep.download import semantic_scholar

        return semantic_scholar.fetch
    if source.dataset:
        from data_prep.download import dataset_stream

        return dataset_stream.fetch
    if all(is_listing(url, source.format) for url in source.url):
        from data_prep.download import mirror

        return mirror.fetch
    from data_prep.download import remote_files

    return remote_files.fetch


def _add(report: StageReport, source: str, rows: list[dict[str, Any]], changed: set[str]) -> None:
    for row in rows:
        unit = f"{source}/{row['name']}"
        if row["state"] != "ok":
            report.failed[unit] = row["reason"]
        elif row["name"] in changed:
            report.ran.append(unit)
        else:
            report.done.append(unit)
