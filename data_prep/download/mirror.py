"""Keeps a local copy of directory listings: fetches what is new, changed or broken, and nothing else.

A file with an `.md5` beside it in the listing, as NLM publishes them, is current while its content
has that MD5; another one while the server's ETag or date is the one it was fetched with.
"""

from __future__ import annotations

import glob
import re
import shutil
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, urlsplit

from isal import igzip

from data_prep.download.inventory import (
    SUFFIXES,
    HashCache,
    failed_row,
    inspect_files,
    is_wanted,
    md5_of,
)
from data_prep.download.transfer import CONNECTIONS, BrokenError, Patience, Remote, Session, keep
from data_prep.errors import DataError
from data_prep.files import digest, write_atomically
from data_prep.progress import console, progress_bar
from data_prep.source_config import Source
from data_prep.sources.compressed import UNREADABLE

Rows = list[dict[str, Any]]

_PUBMED_NAME = re.compile(r"pubmed(?P<year>\d{2})n(?P<number>\d+)\.xml(\.gz)?")


@dataclass(frozen=True)
class Listed:
    """A file that a listing names, and its checksum file if the listing has one."""

    name: str
    url: str
    checksum_url: str | None


@dataclass(frozen=True)
class Wanted:
    """A file to fetch: where it is, in which state, and the text of its checksum file."""

    listed: Listed
    remote: Remote
    checksum: str | None

    @property
    def name(self) -> str:
        return self.listed.name


class Named(Protocol):
    @property
    def name(self) -> str: ...


File = TypeVar("File", bound=Named)
Result = TypeVar("Result")


def is_listing(url: str, format: str) -> bool:
    """Whether an address is that of a directory listing, and not of a file of this format or a pattern."""
    parts = urlsplit(url)
    name = parts.path.rpartition("/")[2]
    is_web = parts.scheme in ("http", "https")
    return is_web and not is_wanted(name, format) and not any(letter in url for letter in "*?[{")


def fetch(
    title: str, source: Source, folder: Path, previous: Rows, patience: Patience
) -> tuple[Rows, set[str]]:
    """Bring `folder/files` up to date; the manifest rows, and the names that were fetched.

    `previous` are the rows of the last run. A file that cannot be had has a row with the reason.
    Raises DataError where a listing cannot be read or the disk is too small.
    """
    session = Session(patience)
    try:
        return _mirror(session, title, source, folder, previous)
    finally:
        session.close()


def _mirror(
    session: Session, title: str, source: Source, folder: Path, previous: Rows
) -> tuple[Rows, set[str]]:
    listed = list_files(session, source.url, source.format)
    if source.format == "pubmed":
        _tell_gaps(title, listed)
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    cache = HashCache(folder / "hashes.jsonl")
    there = [name for name in listed if (files / name).is_file()]
    rows = {row["name"]: row for row in inspect_files(files, there, cache, CONNECTIONS)[0]}
    known = {row["name"]: row.get("validator") for row in previous}

    def compare(file: Listed) -> Wanted | None:
        return _compare(session, file, rows.get(file.name, {}), known.get(file.name))

    compared, failures = each(session.stop, compare, listed.values())
    wanted = {file.name: file for file in compared if file}
    check_space(files, [file.remote.bytes or 0 for file in wanted.values()])
    console.print(f"{title}: {len(listed)} files listed, {len(wanted)} to fetch")

    with progress_bar() as bar:
        task = bar.add_task(title, total=sum(file.remote.bytes or 0 for file in wanted.values()))

        def fetch(file: Wanted) -> str:
            _fetch(session, file, files, cache, lambda number: bar.advance(task, number))
            return file.name

        fetched, more = each(session.stop, fetch, wanted.values())
    failures |= more

    whole = [name for name in listed if name not in failures]
    result = inspect_files(files, whole, cache, CONNECTIONS)[0]
    result += [failed_row(name, reason) for name, reason in failures.items()]
    for row in result:
        name = row["name"]
        validator = wanted[name].remote.validator if name in wanted else known.get(name)
        row |= {"url": listed[name].url, "validator": validator}
    return sorted(result, key=lambda row: row["name"]), set(fetched)


def _tell_gaps(title: str, names: Iterable[str]) -> None:
    names = list(names)
    if not releases(names):
        console.print(
            f"{title}: the listings lack the file of number 1, the first of a year's baseline: without a "
            "baseline most citations are missing",
            soft_wrap=True,
        )
    if missing := missing_numbers(names):
        numbers = ", ".join(map(str, missing[:5])) + (" …" if len(missing) > 5 else "")
        console.print(
            f"{title}: the listings lack the files of number {numbers}; NLM may be writing",
            soft_wrap=True,
        )


def list_files(session: Session, urls: Iterable[str], format: str) -> dict[str, Listed]:
    """The files that the listings name, by name: for PubMed those of the current year's release.

    Raises DataError where a listing has none or two listings name the same file.
    """
    listed: dict[str, Listed] = {}
    for url in urls:
        folder = url.rstrip("/") + "/"
        names = set(session.listing(folder))
        inputs = sorted(name for name in names if is_wanted(name, format))
        if not inputs:
            expected = ", ".join(f"*{suffix}" for suffix in SUFFIXES[format])
            raise DataError(f"{folder}: no file for format {format} listed; expected {expected}")
        for name in inputs:
            if name in listed:
                raise DataError(f"{folder}{name}: also in {listed[name].url}; list it only once")
            address = folder + quote(name)
            checksum = f"{address}.md5" if f"{name}.md5" in names else None
            listed[name] = Listed(name, address, checksum)
    current = current_release(listed) if format == "pubmed" else set(listed)
    return {name: listed[name] for name in sorted(current)}


def current_release(names: Iterable[str]) -> set[str]:
    """PubMed files without those of former years: a new year's baseline replaces everything before.

    A year counts from the moment its first baseline file, number 1, is there; NLM's rule is in the
    baseline's README. Names of another kind stay.
    """
    found = {name: _PUBMED_NAME.fullmatch(name) for name in names}
    newest = max(releases(found), default="")  # two digits sort as years until 2099
    return {name for name, match in found.items() if not match or match["year"] >= newest}


def releases(names: Iterable[str]) -> set[str]:
    """The years, in two digits, of which the first baseline file is among PubMed's names."""
    found = (_PUBMED_NAME.fullmatch(name) for name in names)
    return {match["year"] for match in found if match and int(match["number"]) == 1}


def missing_numbers(names: Iterable[str]) -> list[int]:
    """Numbers between the lowest and the highest of PubMed files that no file has."""
    found = {int(match["number"]) for name in names if (match := _PUBMED_NAME.fullmatch(name))}
    return sorted(set(range(min(found, default=0), max(found, default=0))) - found)


def _compare(
    session: Session, file: Listed, row: dict[str, Any], validator: str | None
) -> Wanted | None:
    """What to fetch for a listed file, or None where the local one (`row`) is current."""
    is_whole = row.get("state") == "ok"
    checksum = session.text(file.checksum_url) if file.checksum_url else None
    if checksum is not None:
        if md5_of(checksum) is None:
            raise DataError(f"{file.checksum_url}: no MD5 in it")
        if is_whole and row["md5"] == md5_of(checksum):
            return None
    remote = session.look(file.url)
    unchanged = is_whole and checksum is None and remote.validator in (validator, None)
    return None if unchanged else Wanted(file, remote, checksum)


def _fetch(
    session: Session, file: Wanted, folder: Path, cache: HashCache, arrived: Callable[[int], None]
) -> None:
    name, checksum = file.name, file.checksum
    state = digest([file.remote.validator, checksum])[:8]
    part = folder / f".{name}.{state}.part"
    for stale in folder.glob(f".{glob.escape(name)}.*.part"):
        # Bytes of another state of the file, or of one that nothing tells from another.
        if stale != part or (file.remote.validator is None and checksum is None):
            stale.unlink()

    def check(path: Path) -> None:
        nonlocal checksum
        if checksum is None and name.endswith((".gz", ".tgz")):
            check_gzip(path)
        found = cache.digests(name, path, with_md5=checksum is not None).md5
        if checksum is None or found == md5_of(checksum):
            return
        # The file may have been replaced on the server since its checksum was read.
        checksum = session.text(str(file.listed.checksum_url))
        if found != md5_of(checksum):
            raise BrokenError(f"its MD5 is {found}, {name}.md5 says {md5_of(checksum)}")

    if part.exists():
        arrived(part.stat().st_size)
    session.fetch(file.remote, part, check, arrived)
    keep(part, folder / name)
    if checksum is not None:
        with write_atomically(folder / f"{name}.md5") as partial:
            partial.write_text(checksum)


def check_gzip(path: Path) -> None:
    """Raise BrokenError where a gzip file is cut or damaged: without a checksum nothing else tells."""
    try:
        with igzip.open(path, "rb") as stream:
            while stream.read(1 << 20):
                pass
    except UNREADABLE as error:  # type: ignore[misc]
        raise BrokenError(f"not a whole gzip file ({error})") from error


def each(
    stop: threading.Event, action: Callable[[File], Result], files: Iterable[File]
) -> tuple[list[Result], dict[str, str]]:
    """Results of the action for each file, a few at a time, and reasons by name where it failed."""
    results: list[Result] = []
    failures: dict[str, str] = {}
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        futures = [(file, pool.submit(action, file)) for file in files]
        try:
            for file, future in futures:
                try:
                    results.append(future.result())
                except (DataError, OSError) as error:
                    failures[file.name] = str(error)
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results, failures


def check_space(folder: Path, sizes: Iterable[int]) -> None:
    needed, free = sum(sizes), shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{folder}: {needed / 1e9:.1f} GB to fetch, {free / 1e9:.1f} GB free; "
            "make room or set output to a larger disk"
        )
