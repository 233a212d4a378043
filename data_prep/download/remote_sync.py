"""Keeps a local copy of files elsewhere, however they are read: fetches what is new or changed, and nothing else."""

from __future__ import annotations

import glob
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_prep.download.inventory import HashCache, failed_row, inspect_files
from data_prep.download.mirror import Rows, check_space, each
from data_prep.download.transfer import CONNECTIONS, keep
from data_prep.errors import DataError
from data_prep.files import digest
from data_prep.progress import console, progress_bar


@dataclass(frozen=True)
class RemoteFile:
    """A file elsewhere in one state of it; `name` is where it goes below the folder, `url` has no secrets in it."""

    name: str
    url: str
    bytes: int | None
    validator: str | None


Get = Callable[[RemoteFile, Path, Callable[[int], None]], None]
"""Completes a partial file from what it has; tells the last argument of every change of its size. Raises DataError."""


def bring_up_to_date(
    title: str,
    found: Sequence[RemoteFile],
    folder: Path,
    previous: Rows,
    get: Get,
    stop: threading.Event,
) -> tuple[Rows, set[str]]:
    """Copy the files that are new or changed to `folder/files`: the manifest rows, and the names that were fetched.

    A file is current while it is whole here and its URL, size and validator are those of its row in `previous`. One
    that cannot be had has a row with the reason. Raises DataError where two have one name, a name leads out of the folder, or the disk is too small.
    """
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    by_name = _named(found)
    cache = HashCache(folder / "hashes.jsonl")
    there = [name for name in by_name if (files / name).is_file()]
    here = {row["name"]: row for row in inspect_files(files, there, cache, CONNECTIONS)[0]}
    known = {row["name"]: row for row in previous}
    wanted = [
        file
        for name, file in by_name.items()
        if not _is_current(file, here.get(name, {}), known.get(name, {}))
    ]
    check_space(files, [file.bytes or 0 for file in wanted])
    console.print(f"{title}: {len(by_name)} files there, {len(wanted)} to fetch")

    with progress_bar() as bar:
        task = bar.add_task(title, total=sum(file.bytes or 0 for file in wanted))

        def fetch(file: RemoteFile) -> str:
            part = _part(file, files)
            arrived = part.stat().st_size if part.exists() else 0
            bar.advance(task, arrived)
            get(file, part, lambda number: bar.advance(task, number))
            keep(part, files / file.name)
            return file.name

        fetched, failures = each(stop, fetch, wanted)
    whole = [name for name in by_name if name not in failures]
    rows = inspect_files(files, whole, cache, CONNECTIONS)[0]
    rows += [failed_row(name, reason) for name, reason in failures.items()]
    for row in rows:
        file = by_name[row["name"]]
        row |= {"url": file.url, "validator": file.validator}
    return sorted(rows, key=lambda row: row["name"]), set(fetched)


def _named(found: Sequence[RemoteFile]) -> dict[str, RemoteFile]:
    named: dict[str, RemoteFile] = {}
    for file in found:
        path = PurePosixPath(file.name)
        if not path.parts or path.is_absolute() or ".." in path.parts:
            raise DataError(
                f"{file.url}: its name {file.name!r} leads out of the folder; rename it"
            )
        if file.name in named:
            raise DataError(
                f"{file.url}: {named[file.name].url} has the same name, {file.name}; "
                "put one of them in a source of its own"
            )
        named[file.name] = file
    return {name: named[name] for name in sorted(named)}


def _is_current(file: RemoteFile, here: dict, known: dict) -> bool:
    """Whether the local file (its row of now, and of the last run) is the one that is there."""
    return (
        here.get("state") == known.get("state") == "ok"
        and (known.get("url"), known.get("validator")) == (file.url, file.validator)
        and file.bytes in (None, here["bytes"])
    )


def _part(file: RemoteFile, files: Path) -> Path:
    """Where the file is written until it is whole; what another state of it left there is removed."""
    target = files / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    state = digest([file.url, file.bytes, file.validator])[:8]
    part = target.parent / f".{target.name}.{state}.part"
    for stale in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        # Without a validator nothing tells the bytes of one state of the file from another's.
        if stale != part or file.validator is None:
            stale.unlink()
    return part
