"""The files of each source, with their content hashes: what extraction works on.

`download/<source>/manifest.jsonl` has a row for each file: name (relative to the source's folder), bytes,
sha256, md5, state ("ok" or "failed") and reason; files that were fetched also have their url and the
server's validator. `hashes.jsonl` beside it remembers size and modification time, so that a file is
read again only when one of them changed; nothing that is made from the files depends on it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from data_prep.config import CorpusConfig
from data_prep.documents import read_json_lines
from data_prep.errors import ConfigError, DataError
from data_prep.files import write_atomically

SUFFIXES = {
    "pubmed": (".xml.gz", ".xml"),
    "jats": (
        *(".xml", ".nxml", ".xml.gz", ".tar.gz", ".tgz", ".tar"),
        *(".filelist.csv", ".filelist.txt"),  # beside an archive: data_prep/sources/archive.py
    ),
    "pmc": (".jsonl.zst",),
    "s2orc": (".jsonl", ".jsonl.gz", ".gz"),
    "text": (".jsonl", ".jsonl.gz", ".jsonl.zst", ".txt"),
    "html": (".html", ".htm"),
    "parquet": (".parquet",),
    "csv": (".csv", ".csv.gz", ".tsv"),
}

_MD5 = re.compile(r"\b[0-9a-f]{32}\b")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class InventoryFile:
    """A whole file of a source; `name` is its path below the source's folder, with slashes."""

    name: str
    path: Path
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Digests:
    """Hashes of one state of a file, and whether they had to be computed."""

    bytes: int
    sha256: str
    md5: str | None
    fresh: bool


def is_wanted(name: str, format: str) -> bool:
    """Whether a file name is that of an input of this format; hidden files never are."""
    return name.endswith(SUFFIXES[format]) and not name.startswith(".")


def find_files(folder: Path, format: str, field: str) -> list[str]:
    """Names of the format's files below `folder`, sorted; linked folders are followed.

    Raises ConfigError naming the config field where the folder or any such file is missing, a folder
    cannot be read, or a name is not UTF-8.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"{field}: no folder at {folder}; expected one that holds the source's files"
        )
    names = sorted(
        (parent / name).relative_to(folder).as_posix()
        for parent, files in _walk(folder, field)
        for name in files
        if is_wanted(name, format)
    )
    if not names:
        expected = ", ".join(f"*{suffix}" for suffix in SUFFIXES[format])
        raise ConfigError(f"{field}: no file in {folder} for format {format}; expected {expected}")
    for name in names:
        if not _is_utf8(name):
            raise ConfigError(
                f"{field}: the file name {os.fsencode(name)!r} in {folder} is not UTF-8; rename the file"
            )
    return names


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # Python shows bytes of a name that are not UTF-8 as surrogates
        return False
    return True


def _walk(folder: Path, field: str) -> Iterator[tuple[Path, list[str]]]:
    def refuse(error: OSError) -> None:
        raise ConfigError(
            f"{field}: cannot read the folder {error.filename}: {error.strerror}; "
            "make it readable or move it elsewhere"
        ) from error

    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(parent)
        folders[:] = [name for name in folders if not name.startswith(".")]
        if real in seen:  # a link back up would never end
            folders.clear()
            continue
        seen.add(real)
        yield Path(parent), files


class HashCache:
    """Content hashes that are computed again only when a file's size or modification time changed."""

    def __init__(self, path: Path):
        self._path = path
        rows = read_json_lines(path) if path.exists() else ()
        self._known: dict[str, dict[str, Any]] = {row["name"]: row for row in rows}

    def digests(self, name: str, path: Path, with_md5: bool) -> Digests:
        """Hashes of the file; `name` is what it is remembered by. Raises OSError."""
        stat = path.stat()
        state = {"name": name, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        known = self._known.get(name, {})
        fresh = state != {key: known.get(key) for key in state} or (with_md5 and not known["md5"])
        if fresh:
            sha256, md5 = _hash(path, with_md5)
            known = self._known[name] = {**state, "sha256": sha256, "md5": md5}
        return Digests(stat.st_size, known["sha256"], known["md5"], fresh)

    def remember(self, name: str, path: Path, sha256: str) -> None:
        """Take over the hash of a file that was read on the way. Raises OSError."""
        stat = path.stat()
        state = {"name": name, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        self._known[name] = {**state, "sha256": sha256, "md5": None}

    def save(self, names: Iterable[str]) -> None:
        """Remember the hashes of these names for the next run."""
        write_rows(self._path, (self._known[name] for name in sorted(names) if name in self._known))


def _hash(path: Path, with_md5: bool) -> tuple[str, str | None]:
    sha256 = hashlib.sha256()
    md5 = hashlib.md5(usedforsecurity=False) if with_md5 else None
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            sha256.update(chunk)
            if md5:
                md5.update(chunk)
    return sha256.hexdigest(), md5.hexdigest() if md5 else None


def md5_of(text: str) -> str | None:
    """The MD5 in a checksum file: NLM's `MD5(name)= …` or md5sum's `…  name`; None where there is none."""
    found = _MD5.search(text.lower())
    return found.group() if found else None


def inspect_files(
    folder: Path, names: Iterable[str], cache: HashCache, workers: int
) -> tuple[list[dict[str, Any]], set[str]]:
    """Manifest rows of the files in `folder`, and the names that had to be read."""
    names = list(names)
    with ThreadPoolExecutor(workers) as pool:  # threads do: hashing runs without Python's lock
        inspected = list(pool.map(lambda name: _inspect(folder, name, cache), names))
    cache.save(names)
    return [row for row, _ in inspected], {row["name"] for row, fresh in inspected if fresh}


def _inspect(folder: Path, name: str, cache: HashCache) -> tuple[dict[str, Any], bool]:
    path = folder / name
    checksum = path.with_name(path.name + ".md5")
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            return failed_row(name, f"{path}: not a file; remove it or put the file there"), True
        expected = md5_of(checksum.read_text(errors="replace")) if checksum.is_file() else None
        if expected is None and checksum.is_file():
            return failed_row(name, f"{checksum}: no MD5 in it; fetch it again or remove it"), True
        found = cache.digests(name, path, with_md5=expected is not None)
    except OSError as error:
        return failed_row(
            name, f"{error.filename or path}: {error.strerror}; mend or remove it"
        ), True
    if expected and found.md5 != expected:
        reason = f"{path}: its MD5 is {found.md5}, {checksum.name} says {expected}; fetch it again"
        return failed_row(name, reason), found.fresh
    row = {"name": name, "bytes": found.bytes, "sha256": found.sha256, "md5": expected}
    return row | {"state": "ok", "reason": None}, found.fresh


def failed_row(name: str, reason: str) -> dict[str, Any]:
    """The manifest row of a file that is not usable."""
    empty = dict.fromkeys(("bytes", "sha256", "md5"))
    return {"name": name, **empty, "state": "failed", "reason": reason}


def source_folder(config: CorpusConfig, source: str) -> Path:
    """Where what the stage download knows about a source is."""
    return config.downloads / source


def manifest_path(config: CorpusConfig, source: str) -> Path:
    return source_folder(config, source) / "manifest.jsonl"


def files_folder(config: CorpusConfig, source: str) -> Path:
    """Where a source's files are: the user's folder, or ours if they were fetched."""
    return config.sources[source].path or source_folder(config, source) / "files"


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines atomically."""
    with write_atomically(path) as partial, partial.open("wb") as stream:
        stream.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def read_inventory(config: CorpusConfig, source: str) -> list[InventoryFile]:
    """The source's whole files, sorted by name; those that failed are left out.

    Raises DataError where the stage download has not run or a file is no longer what it found.
    """
    manifest, folder = manifest_path(config, source), files_folder(config, source)
    if not manifest.exists():
        raise DataError(f"{manifest}: not there; run the stage download first")
    rows = [row for row in read_json_lines(manifest) if row["state"] == "ok"]
    files = [
        InventoryFile(row["name"], folder / row["name"], row["bytes"], row["sha256"])
        for row in rows
    ]
    for file in files:
        size = file.path.stat().st_size if file.path.is_file() else None
        if size != file.bytes:
            found = "it is gone" if size is None else f"it has {size} bytes"
            raise DataError(
                f"{file.path}: {found}, the inventory says {file.bytes} bytes; "
                "run the stage download again"
            )
    return files
