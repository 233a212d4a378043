"""Copies a shard set from anywhere to a local folder, where it appears whole or not at all.

A file is fetched in ranges under a name of its own, which a run started again goes on with, and takes
its name when it has the hash that the manifest gives it. The manifest comes last: until then there is no
set. What is there already is not fetched again; its hash is checked.
"""

import glob
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from data_prep.download.mirror import check_space, each
from data_prep.download.transfer import StoppedError, keep
from data_prep.errors import ConfigError, DataError
from data_prep.files import sha256_file
from data_prep.lock import FolderLock
from data_prep.progress import follow
from data_prep.shards.manifest import MANIFEST, Manifest
from data_prep.shards.storage import Place, Storage, UnreadableError, storage_of

_CHUNK = 8 << 20  # bytes: each is a request of its own
_LOCK_WAIT_S = 5.0  # the threads of a killed run end with it


@dataclass(frozen=True)
class _File:
    name: str
    sha256: str
    bytes: int


class _Fetched:
    """Files and bytes that are there by now, counted by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files = self._bytes = 0

    def add(self, files: int, size: int) -> None:
        with self._lock:
            self._files += files
            self._bytes += size

    def now(self) -> tuple[int, int]:
        with self._lock:
            return self._files, self._bytes


def fetch(place: Place | Storage, folder: Path) -> Manifest:
    """Copy the set at `place` to `folder`: what is missing there.

    Raises ConfigError where the folder holds another set, DataError naming a file that cannot be had or is
    not what the manifest says; the same call then goes on from there.
    """
    storage = storage_of(place)
    manifest = Manifest.read(storage)
    if (folder / MANIFEST).exists() and Manifest.read(folder).hash != manifest.hash:
        raise ConfigError(
            f"fetch: {folder} holds another set than {storage.place}; remove it or choose another folder"
        )
    lock = FolderLock(folder, "fetch")
    lock.acquire(_LOCK_WAIT_S)
    files = [_file(storage, manifest, name) for name in manifest.hashes]
    check_space(folder, (file.bytes - _size(_present(folder, file)) for file in files))
    fetched, stop = _Fetched(), threading.Event()
    bring = partial(_bring, storage, folder, fetched, stop)
    total = len(files), sum(file.bytes for file in files)
    with follow(f"fetch {manifest.source}-{manifest.split}", total, fetched.now):
        _, failures = each(stop, bring, files)
    if failures:
        others = f" (and {len(failures) - 1} other files)" if len(failures) > 1 else ""
        raise DataError(f"{next(iter(failures.values()))}{others}")
    manifest.write(folder)
    lock.path.unlink(missing_ok=True)  # the set is whole: whoever comes next finds nothing to do
    return manifest


def _file(storage: Storage, manifest: Manifest, name: str) -> _File:
    where, path = storage.address(name), PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{where}: its name leads out of the folder; do not trust this set")
    sizes = {file.name: file.bytes for file in manifest.files}
    try:
        size = sizes[name] if name in sizes else storage.size(name)
    except UnreadableError as error:
        raise DataError(f"{where}: {error}") from error
    return _File(name, manifest.hashes[name], size)


def _bring(
    storage: Storage, folder: Path, fetched: _Fetched, stop: threading.Event, file: _File
) -> None:
    """Have the whole file in its place; raises DataError where it cannot be had."""
    target, part = folder / file.name, _part(folder, file)
    if _size(target) == file.bytes and sha256_file(target) == file.sha256:
        fetched.add(1, file.bytes)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    for stale in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        if stale != part:  # of another state of the set
            stale.unlink()
    while True:
        resumed = _complete(storage, file, part, fetched, stop)
        if _size(part) == file.bytes and sha256_file(part) == file.sha256:
            break
        fetched.add(0, -_size(part))
        part.unlink()
        if not resumed:
            raise DataError(
                f"{storage.address(file.name)}: what came is not the file that the manifest names; start "
                "again, and if that does not help, mend the set there"
            )
    keep(part, target)
    fetched.add(1, 0)


def _complete(
    storage: Storage, file: _File, part: Path, fetched: _Fetched, stop: threading.Event
) -> bool:
    """Fetch what the partial file lacks; whether it had something."""
    had = _size(part)
    fetched.add(0, had)
    with part.open("ab") as stream:
        for begin in range(had, file.bytes, _CHUNK):
            if stop.is_set():
                raise StoppedError
            try:
                content = storage.read(file.name, begin, min(begin + _CHUNK, file.bytes))
            except UnreadableError as error:
                raise DataError(f"{storage.address(file.name)}: {error}") from error
            stream.write(content)
            fetched.add(0, len(content))
    return had > 0


def _part(folder: Path, file: _File) -> Path:
    """Where the file is written until it is whole; named by its hash, so that states never mix."""
    target = folder / file.name
    return target.parent / f".{target.name}.{file.sha256[:8]}.part"


def _present(folder: Path, file: _File) -> Path:
    target = folder / file.name
    return target if target.exists() else _part(folder, file)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
