"""Files and folders anywhere that fsspec reaches (s3://, gs://, https://, file:// …), copied and kept up to date.

Access is what each file system's own variables say (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, FSSPEC_…); a
bucket on S3 is read anonymously where there are no credentials.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from data_prep.download.inventory import SUFFIXES, is_wanted
from data_prep.download.mirror import Rows, check_gzip, is_listing
from data_prep.download.remote_sync import RemoteFile, bring_up_to_date
from data_prep.download.transfer import BrokenError, Patience, Remote, Session, StoppedError
from data_prep.errors import DataError
from data_prep.source_config import Source

_CHUNK = 8 << 20  # bytes: each is a request of its own
_WEB = ("http", "https")


def fetch(
    title: str, source: Source, folder: Path, previous: Rows, patience: Patience
) -> tuple[Rows, set[str]]:
    """Bring `folder/files` up to date with the files, folders ("…/") and patterns of `source.url`.

    A file keeps its name, one of a folder or pattern its path below the fixed part of it. Returns manifest rows and the names that were
    fetched; raises DataError where an address cannot be listed or two files have one name.
    """
    session = Session(patience)
    places: dict[str, tuple[Any, str]] = {}  # by address: file system (none: the web) and path
    try:
        found = [file for url in source.url for file in _list(session, url, source.format, places)]

        def get(file: RemoteFile, part: Path, arrived: Callable[[int], None]) -> None:
            system, path = places[file.url]
            if system is None:
                remote = Remote(file.url, file.bytes, file.validator)
                session.fetch(remote, part, lambda part: _check(file, part), arrived)
            else:
                _insist(patience, session.stop, file.url, part,
                        lambda: _read_rest(system, path, file, part, arrived, session.stop))  # fmt: skip

        return bring_up_to_date(title, found, folder, previous, get, session.stop)
    finally:
        session.close()


def _list(
    session: Session, url: str, format: str, places: dict[str, tuple[Any, str]]
) -> list[RemoteFile]:
    """The files at an address; `places` learns how each is read."""
    if is_listing(url, format):
        raise DataError(
            f"{url}: a directory listing among files; give listings a source of their own"
        )
    if urlsplit(url).scheme in _WEB:
        if any(letter in url for letter in "*?[{"):
            raise DataError(f"{url}: the web has no patterns; name the files or their listing")
        remote = session.look(url)
        places[url] = (None, url)
        name = unquote(urlsplit(url).path.rpartition("/")[2])
        return [RemoteFile(name, url, remote.bytes, remote.validator)]
    system, base, details = _details(url)
    wanted = {path: about for path, about in details.items() if _is_input(path, about, format)}
    if not wanted:
        expected = ", ".join(f"*{suffix}" for suffix in SUFFIXES[format])
        raise DataError(f"{url}: no file for format {format} there; expected {expected}")
    files = []
    for path, about in sorted(wanted.items()):
        address = system.unstrip_protocol(path)
        places[address] = (system, path)
        name = path.removeprefix(base).lstrip("/")
        files.append(RemoteFile(name, address, about.get("size"), _validator(about)))
    return files


def _is_input(path: str, about: dict[str, Any], format: str) -> bool:
    return about.get("type") == "file" and is_wanted(path.rpartition("/")[2], format)


def _details(url: str) -> tuple[Any, str, dict[str, dict[str, Any]]]:
    """File system, the folder that names are relative to, and what is known of each file at an address."""
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(url, **file_system_options(urlsplit(url).scheme))
        system.invalidate_cache()
        if url.endswith("/"):
            return system, path, system.find(path, detail=True)
        if any(letter in path for letter in "*?[{"):
            fixed = path[: min(path.index(letter) for letter in "*?[{" if letter in path)]
            return system, fixed.rpartition("/")[0], system.glob(path, detail=True)
        return system, str(PurePosixPath(path).parent), {path: system.info(path)}
    except Exception as error:  # each file system has errors of its own
        raise DataError(f"{url}: cannot be listed: {_reason(error)}; check the address") from error


def file_system_options(scheme: str) -> dict[str, Any]:
    """What fsspec has to be told to open such an address."""
    if scheme != "s3":
        return {}
    from botocore.session import get_session

    return {"anon": get_session().get_credentials() is None}


def _validator(about: dict[str, Any]) -> str | None:
    """What changes when the file does: its entity tag, else when it was written."""
    for key in ("ETag", "etag", "md5Hash", "LastModified", "mtime", "updated", "created"):
        if value := about.get(key):
            return str(value.timestamp() if isinstance(value, datetime) else value)
    return None


def _read_rest(
    system: Any,
    path: str,
    file: RemoteFile,
    part: Path,
    arrived: Callable[[int], None],
    stop: threading.Event,
) -> None:
    have = part.stat().st_size if part.exists() else 0
    with system.open(path, "rb", cache_type="none") as stream, part.open("ab") as target:
        if have:
            stream.seek(have)
        while chunk := stream.read(_CHUNK):
            if stop.is_set():
                raise StoppedError
            target.write(chunk)
            arrived(len(chunk))
    _check(file, part)
    system.invalidate_cache(path)
    if _validator(system.info(path)) != file.validator:
        raise BrokenError("it changed while it was fetched; run the stage again")


def _check(file: RemoteFile, part: Path) -> None:
    """Raise BrokenError where a file is not whole, as far as that can be told without a checksum."""
    size = part.stat().st_size
    if file.bytes is not None and size != file.bytes:
        raise BrokenError(f"it has {size} bytes, {file.bytes} were announced")
    if file.name.endswith((".gz", ".tgz")):
        check_gzip(part)


def _insist(
    patience: Patience,
    stop: threading.Event,
    url: str,
    part: Path,
    action: Callable[[], None],
) -> None:
    """Repeat an action until it ends well, or has failed too often without the partial file growing."""
    failures, reached = 0, -1
    while True:
        try:
            return action()
        except StoppedError:
            raise
        except FileNotFoundError as error:
            raise DataError(f"{url}: no longer there; run the stage again") from error
        except Exception as error:  # each file system has errors of its own
            if isinstance(error, BrokenError):
                part.unlink(missing_ok=True)
            size = part.stat().st_size if part.exists() else 0
            failures = failures + 1 if size <= reached else 1
            reached = max(reached, size)
            if failures >= patience.attempts:
                raise DataError(f"{url}: {_reason(error)}, {failures} times in a row") from error
            if stop.wait(patience.pause(failures, None)):
                raise StoppedError from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
