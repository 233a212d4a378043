"""Files of a shard set read in ranges over the network, into memory only.

Each process makes its own connections at its first read: those of fsspec's asynchronous file systems do
not survive a fork. A read that fails for a reason that may pass (connection, 5xx, 429, too few bytes) is
tried again with growing pauses, a bounded number of times.
"""

import errno
import os
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from data_prep.download.remote_files import file_system_options
from data_prep.download.transfer import TIMEOUT_S, TRANSIENT, Patience, retry_after
from data_prep.errors import ConfigError
from data_prep.shards.storage import UnreadableError

ONLINE = "check the network and the address, and start again"
_WEB = ("http", "https")
_REFUSALS = (errno.EINVAL, errno.EPERM, errno.ENOSYS)  # as s3fs translates S3's refusals

Result = TypeVar("Result")

# File system and path of a place, by process. What a parent opened stays referenced in its children:
# closing it there would unregister the parent's sockets from the event loop that both share.
_opened: dict[tuple[int, str], tuple[Any, str]] = {}


class RemoteStorage:
    """The files below a URL; see Storage."""

    def __init__(self, url: str, patience: Patience | None = None):
        self.place = url.rstrip("/")
        self._patience = patience or Patience()
        self._open()  # an address that nothing can read is known at once

    def address(self, name: str) -> str:
        return f"{self.place}/{name}"

    def size(self, name: str) -> int:
        def ask() -> int:
            system, folder = self._open()
            system.invalidate_cache()
            size = system.info(f"{folder}/{name}")["size"]
            if size is None:
                raise UnreadableError("its size is not announced", ONLINE)
            return int(size)

        return self._insist(ask)

    def read(self, name: str, begin: int, end: int) -> bytes:
        def ask() -> bytes:
            system, folder = self._open()
            content = system.cat_file(f"{folder}/{name}", start=begin, end=end)
            if len(content) > end - begin:
                raise UnreadableError(
                    "the server sends whole files only, not ranges",
                    "copy the set with python -m data_prep fetch",
                )
            if len(content) < end - begin:
                raise OSError(f"{len(content)} bytes came of {end - begin}")
            return bytes(content)

        return self._insist(ask) if begin < end else b""

    def content(self, name: str) -> bytes:
        def ask() -> bytes:
            system, folder = self._open()
            return bytes(system.cat_file(f"{folder}/{name}"))

        return self._insist(ask)

    def _open(self) -> tuple[Any, str]:
        key = (os.getpid(), self.place)
        if key not in _opened:
            _opened[key] = _file_system(self.place)
        return _opened[key]

    def _insist(self, action: Callable[[], Result]) -> Result:
        failures = 0
        while True:
            try:
                return action()
            except UnreadableError:
                raise
            except Exception as error:  # each file system has errors of its own
                reason = " ".join(str(error).split()) or type(error).__name__
                if fault := _lasting(error):
                    raise fault from error
                failures += 1
                if failures >= self._patience.attempts:
                    raise UnreadableError(
                        f"cannot read ({reason}, {failures} times in a row)", ONLINE
                    ) from error
                # Not all at once: thousands of ranks may have been sent away together.
                time.sleep(self._patience.pause(failures, _asked(error)) * random.uniform(0.5, 1.0))


def _file_system(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    scheme = urlsplit(url).scheme
    try:
        # An instance of our own: fsspec drops those it keeps when a process forks.
        system, path = url_to_fs(url, skip_instance_cache=True, **_options(scheme))
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{url}: {scheme}:// cannot be read here ({error})") from error
    if scheme == "s3":
        system.retries = 1  # times that s3fs tries by itself
    return system, path.rstrip("/")


def _options(scheme: str) -> dict[str, Any]:
    if scheme == "s3":  # botocore tries four times more by itself, and RemoteStorage each of them
        return file_system_options(scheme) | {"config_kwargs": {"retries": {"max_attempts": 0}}}
    if scheme not in _WEB:
        return file_system_options(scheme)
    from aiohttp import ClientTimeout

    # aiohttp's own limit is on the whole transfer. Ranges count bytes as they are stored.
    timeout = ClientTimeout(total=None, connect=TIMEOUT_S, sock_read=TIMEOUT_S)
    return {"client_kwargs": {"timeout": timeout, "headers": {"Accept-Encoding": "identity"}}}


def _lasting(error: Exception) -> UnreadableError | None:
    """What to say where asking again would change nothing; None where it may."""
    reason = " ".join(str(error).split()) or type(error).__name__
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError):
        return UnreadableError("cannot read (no such file there)")
    if isinstance(error, PermissionError) or status in (401, 403):
        return UnreadableError(f"cannot read ({reason})", "check the credentials")
    if status == 416:
        return UnreadableError("the file ends too early")
    refused = isinstance(error, OSError) and error.errno in _REFUSALS
    if refused or (status is not None and status not in TRANSIENT):
        return UnreadableError(f"cannot read ({reason})", ONLINE)
    return None


def _asked(error: Exception) -> float | None:
    """Seconds that the server asks to wait, at most the longest silence that is borne anyway."""
    headers = getattr(error, "headers", None) or {}
    wait = retry_after(headers.get("Retry-After"))
    return None if wait is None else min(wait, TIMEOUT_S)
