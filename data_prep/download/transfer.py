"""Polite HTTP: few connections, retries with growing pauses, downloads that resume and are whole."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urljoin, urlsplit

import httpx2
from lxml import etree, html

from data_prep.errors import DataError
from data_prep.files import fsync_file, fsync_folder

CONNECTIONS = 4  # one client's fair share of a public server; a line is full with fewer
TIMEOUT_S = 60.0  # of silence, not of the whole transfer
LONGEST_WAIT_S = 900.0  # that a server may ask for; a run that has to wait longer says so and ends

# "Try again later" in RFC 9110 and RFC 6585; any other error stays the same however often one asks.
TRANSIENT = {408, 429, 500, 502, 503, 504}

Result = TypeVar("Result")


class StoppedError(Exception):
    """The run ends: threads leave what they do."""


class UnwillingError(Exception):
    """The server answered that it cannot now; `wait` is its Retry-After in seconds."""

    def __init__(self, status: int, wait: float | None):
        super().__init__(f"the server answers {status}")
        self.wait = wait


class RefusedError(DataError):
    """The server answered that it will not; asking again changes nothing."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class BrokenError(Exception):
    """What arrived is not what was announced."""


@dataclass(frozen=True)
class Remote:
    """A file on a server, in one state of it: `validator` is its ETag or Last-Modified."""

    url: str
    bytes: int | None
    validator: str | None


@dataclass(frozen=True)
class Patience:
    """How often to try without any progress, and how long to pause: doubling from first to longest."""

    attempts: int = 8  # two minutes of pauses in all
    first_s: float = 1.0
    longest_s: float = 60.0

    def pause(self, failures: int, asked: float | None) -> float:
        """Seconds to wait after so many failures in a row; what the server asks for counts more."""
        return (
            asked if asked is not None else min(self.first_s * 2 ** (failures - 1), self.longest_s)
        )


class Session:
    """An HTTP client for one run, used by several threads."""

    def __init__(self, patience: Patience):
        self._patience = patience
        self.stop = threading.Event()
        self._client = httpx2.Client(
            timeout=TIMEOUT_S,
            follow_redirects=True,
            limits=httpx2.Limits(max_connections=CONNECTIONS),
            # Some servers declare .gz files as encoded: the bytes must arrive as they are.
            headers={"Accept-Encoding": "identity"},
        )

    def close(self) -> None:
        self.stop.set()
        self._client.close()

    def text(self, url: str, headers: Mapping[str, str] | None = None) -> str:
        """Body of a small text. Raises DataError naming the URL."""
        return self._insist(url, lambda: self._answer("GET", url, headers)).text

    def look(self, url: str) -> Remote:
        """Size and validator of a file. Raises DataError naming the URL."""
        answer = self._insist(url, lambda: self._answer("HEAD", url))
        length = answer.headers.get("Content-Length")
        return Remote(url, int(length) if length else None, _validator(answer.headers))

    def listing(self, url: str) -> list[str]:
        """Names of the files that a directory listing links to, sorted. Raises DataError."""
        answer = self._insist(url, lambda: self._answer("GET", url.rstrip("/") + "/"))
        return linked_names(str(answer.url), answer.content)  # the address after redirections

    def fetch(
        self,
        remote: Remote,
        part: Path,
        check: Callable[[Path], None],
        arrived: Callable[[int], None],
    ) -> None:
        """Complete `part` from what it has, and have it checked; `arrived` is told of every change.

        `check` raises BrokenError where the content is wrong: it is then fetched from the start. Raises
        DataError after too many attempts without progress, and leaves a partial file to be resumed.
        """

        def attempt() -> None:
            try:
                self._fetch_rest(remote, part, arrived)
                check(part)
            except BrokenError:
                arrived(-_size(part))
                part.unlink(missing_ok=True)
                raise

        self._insist(remote.url, attempt, progress=lambda: _size(part))

    def _fetch_rest(self, remote: Remote, part: Path, arrived: Callable[[int], None]) -> None:
        have = _size(part)
        if have and have == remote.bytes:  # ended before it could be checked
            return
        headers = {"Range": f"bytes={have}-"} if have else {}
        if have and remote.validator:
            headers["If-Range"] = remote.validator
        with self._client.stream("GET", remote.url, headers=headers) as answer:
            if answer.status_code == 416:
                raise BrokenError("the server has no bytes after those that came before")
            _check_status(answer)
            resumed = answer.status_code == 206
            if resumed and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                raise BrokenError("the server sent another part of the file than was asked for")
            if not resumed:
                arrived(-have)
            with part.open("ab" if resumed else "wb") as stream:
                for chunk in answer.iter_raw():
                    if self.stop.is_set():
                        raise StoppedError
                    stream.write(chunk)
                    arrived(len(chunk))

    def _answer(
        self, method: str, url: str, headers: Mapping[str, str] | None = None
    ) -> httpx2.Response:
        answer = self._client.request(method, url, headers=headers)
        _check_status(answer)
        return answer

    def _insist(
        self, url: str, action: Callable[[], Result], progress: Callable[[], int] = lambda: 0
    ) -> Result:
        failures, reached = 0, progress()
        while True:
            try:
                return action()
            except (httpx2.TransportError, UnwillingError, BrokenError) as error:
                failures = failures + 1 if progress() <= reached else 1
                reached = max(reached, progress())
                if failures >= self._patience.attempts:
                    raise DataError(
                        f"{url}: {_reason(error)}, {failures} times in a row"
                    ) from error
                wait = error.wait if isinstance(error, UnwillingError) else None
                if wait and wait > LONGEST_WAIT_S:
                    raise DataError(
                        f"{url}: the server asks to come back in {wait:.0f} s"
                    ) from error
                if self.stop.wait(self._patience.pause(failures, wait)):
                    raise StoppedError from error
            except httpx2.HTTPError as error:
                raise DataError(f"{url}: {_reason(error)}") from error


def keep(part: Path, target: Path) -> None:
    """Give a whole file its final name, so that it is there after a power loss too."""
    fsync_file(part)
    part.replace(target)
    fsync_folder(target.parent)


def _check_status(answer: httpx2.Response) -> None:
    if answer.status_code in TRANSIENT:
        raise UnwillingError(answer.status_code, retry_after(answer.headers.get("Retry-After")))
    if not answer.is_success:
        raise RefusedError(
            f"{answer.url}: the server answers {answer.status_code} {answer.reason_phrase}; "
            "check the URL",
            answer.status_code,
        )


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, written as seconds or as a date; None where it does not."""
    if value is None:
        return None
    if re.fullmatch(r"\d+", value.strip()):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _validator(headers: httpx2.Headers) -> str | None:
    """What If-Range may carry: a strong ETag, else the date (RFC 9110, section 13.1.5)."""
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def linked_names(folder: str, page: bytes) -> list[str]:
    """Names of the files directly in `folder` that its listing links to, sorted."""
    try:
        links = html.fromstring(page).xpath("//a/@href")
    except etree.ParserError:  # no element at all: a listing of no file
        return []
    return sorted({name for link in links if (name := _name_in(folder, urljoin(folder, link)))})


def _name_in(folder: str, url: str) -> str | None:
    """The plain file name of a URL that lies directly in `folder`."""
    here, there = urlsplit(folder), urlsplit(url)
    if (here.netloc, here.query) != (there.netloc, there.query):
        return None
    name = unquote(there.path.removeprefix(here.path))
    outside = not there.path.startswith(here.path)
    return None if outside or not name or "/" in name or "\\" in name else name


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
