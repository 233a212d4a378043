"""Where the bytes of a shard set come from: a local folder, or a place that fsspec reaches (s3://, gs://, https://).

Local files are read by pread, not through a memory map. Decoding with the check of every byte takes the
same time either way (measured: 850 µs and 840 µs for a row group of 256 x 1,024 tokens, 353 kB on disk),
but what pread returns is the reader's own: the bytes that were checked are the bytes that are decoded,
and a disk or network share that fails gives an error to report where a map kills the process (SIGBUS).
"""

import glob
import os
from pathlib import Path
from typing import Protocol

from data_prep.errors import ConfigError

Place = Path | str
"""A folder, or the URL of one."""

RESTORE = (
    "the file was changed after it was written: restore it from a copy, or remove the set's folder and "
    "the file's unit below pack/ and run the stage pack again"
)


class UnreadableError(Exception):
    """Bytes cannot be had or are not what was written: the reason, and what to do about it."""

    def __init__(self, reason: str, advice: str = RESTORE):
        super().__init__(f"{reason}; {advice}")
        self.reason, self.advice = reason, advice


class Storage(Protocol):
    """Files by their name below one place. Can be pickled, forked and used by several threads."""

    @property
    def place(self) -> Place: ...

    def address(self, name: str) -> Place: ...

    def size(self, name: str) -> int:
        """Bytes of the file. Raises UnreadableError."""

    def read(self, name: str, begin: int, end: int) -> bytes:
        """Exactly bytes [begin, end) of the file. Raises UnreadableError."""

    def content(self, name: str) -> bytes:
        """The whole file. Raises UnreadableError."""


class LocalStorage:
    """The files of a folder, opened for each read: a set may have more than a process may hold open."""

    def __init__(self, folder: Path):
        self.place = folder

    def address(self, name: str) -> Path:
        return self.place / name

    def size(self, name: str) -> int:
        try:
            return os.stat(f"{self.place}/{name}").st_size
        except OSError as error:
            raise _unreadable(error) from error

    def read(self, name: str, begin: int, end: int) -> bytes:
        parts = []
        try:
            with self.address(name).open("rb", buffering=0) as stream:
                while begin < end and (part := os.pread(stream.fileno(), end - begin, begin)):
                    parts.append(part)
                    begin += len(part)
        except OSError as error:
            raise _unreadable(error) from error
        if begin < end:
            raise UnreadableError("the file ends too early")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def content(self, name: str) -> bytes:
        try:
            return self.address(name).read_bytes()
        except OSError as error:
            raise _unreadable(error) from error


def is_url(place: Place) -> bool:
    return isinstance(place, str) and "://" in place


def storage_of(place: Place | Storage) -> Storage:
    """The storage at a place. Raises ConfigError for a URL that nothing here can read."""
    if not isinstance(place, Path | str):
        return place
    if not is_url(place):
        return LocalStorage(Path(place))
    url = str(place)
    if url.startswith("file://"):
        return LocalStorage(Path(url.removeprefix("file://")))
    # Late: HTTP and S3 clients take longer to import than a local set takes to open.
    from data_prep.shards.remote_storage import RemoteStorage

    return RemoteStorage(url)


def local_folder(storage: Storage) -> Path:
    """The folder of a local storage. Raises ConfigError for a remote one."""
    if isinstance(storage, LocalStorage):
        return storage.place
    raise ConfigError(
        f"{storage.place}: not a local folder, which this needs; copy the set with "
        f"python -m data_prep fetch {storage.place} FOLDER"
    )


def is_between_renames(storage: Storage) -> bool:
    """Whether a local folder is away because data_prep.files.folder_atomically is putting a new one there."""
    if not isinstance(storage, LocalStorage) or storage.place.exists():
        return False
    return any(storage.place.parent.glob(f".{glob.escape(storage.place.name)}.*.partial"))


def _unreadable(error: OSError) -> UnreadableError:
    missing = isinstance(error, FileNotFoundError | NotADirectoryError)
    advice = RESTORE if missing else "mend the disk or its mount, and start again"
    return UnreadableError(f"cannot read ({error.strerror or error})", advice)
