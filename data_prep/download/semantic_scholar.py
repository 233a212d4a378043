"""Releases of Semantic Scholar's datasets (https://api.semanticscholar.org/api-docs/datasets), S2ORC among them.

The service wants a key and answers with addresses that carry a signature and expire; neither is ever shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson

from data_prep.download.inventory import SUFFIXES, is_wanted
from data_prep.download.mirror import Rows, check_gzip
from data_prep.download.remote_sync import RemoteFile, bring_up_to_date
from data_prep.download.transfer import Patience, RefusedError, Remote, Session
from data_prep.errors import ConfigError, DataError
from data_prep.source_config import Release, Source

KEY = "S2_API_KEY"
_EXPIRED = 403  # S3's answer to a signature that is out of date
_UNKNOWN = 404
_UNAUTHORISED = (401, 403)
_SHOWN = 5  # releases in a message


def fetch(
    title: str, source: Source, folder: Path, previous: Rows, patience: Patience
) -> tuple[Rows, set[str]]:
    """Bring `folder/files` up to date with the files of the source's release; manifest rows, and the names fetched.

    A file of a release never changes, and "latest" is whatever release is newest when the stage runs. Raises
    ConfigError where the variable S2_API_KEY is not set, DataError where the release or the dataset is unknown.
    """
    release = source.release or Release()
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise ConfigError(
            f"{title}: the variable {KEY} is not set; expected a key for Semantic Scholar's API: "
            "https://www.semanticscholar.org/product/api"
        )
    session = Session(patience)
    try:
        return _fetch(session, title, _Service(session, release, key), source, folder, previous)
    finally:
        session.close()


def _fetch(
    session: Session,
    title: str,
    service: _Service,
    source: Source,
    folder: Path,
    previous: Rows,
) -> tuple[Rows, set[str]]:
    addresses = {
        name: address for name, address in service.addresses().items() if is_wanted(name, source.format)
    }  # fmt: skip
    if not addresses:
        expected = ", ".join(f"*{suffix}" for suffix in SUFFIXES[source.format])
        raise DataError(
            f"{service.url}: no file for format {source.format} listed; expected {expected}"
        )
    # Neither size nor validator: a signature is good for one method, so that nothing can be asked before.
    found = [RemoteFile(name, _bare(url), None, service.release) for name, url in addresses.items()]

    def get(file: RemoteFile, part: Path, arrived: Callable[[int], None]) -> None:
        def check(part: Path) -> None:
            if file.name.endswith(".gz"):
                check_gzip(part)

        was_refused = False
        while True:
            address, before = addresses[file.name], _size(part)
            try:
                return session.fetch(Remote(address, None, None), part, check, arrived)
            except DataError as error:
                expired = isinstance(error, RefusedError) and error.status == _EXPIRED
                if not expired or (was_refused and _size(part) <= before):
                    raise DataError(_without_signatures(str(error))) from None
                was_refused = True
            if addresses[file.name] == address:  # no other file's refusal has brought new ones
                addresses.update(service.addresses())

    return bring_up_to_date(title, found, folder, previous, get, session.stop)


class _Service:
    """What the API says about a release; `release` is its name, as "2026-11-17"."""

    def __init__(self, session: Session, release: Release, key: str):
        self._session = session
        self._headers = {"x-api-key": key}
        self._root = release.endpoint.rstrip("/")
        about = self._release(release.name)
        self.release = str(about.get("release_id"))
        self.url = f"{self._root}/release/{self.release}/dataset/{release.dataset}"
        datasets = [str(dataset.get("name")) for dataset in about.get("datasets") or []]
        if release.dataset not in datasets:
            raise DataError(
                f"{self._root}/release/{self.release}: no dataset {release.dataset}; "
                f"expected one of {', '.join(datasets)}"
            )

    def addresses(self) -> dict[str, str]:
        """The signed addresses of the dataset's files, by name."""
        files = self._get(self.url).get("files") or []
        return {unquote(urlsplit(file).path.rpartition("/")[2]): file for file in files}

    def _release(self, name: str) -> dict[str, Any]:
        try:
            return self._get(f"{self._root}/release/{name}")
        except RefusedError as error:
            if error.status != _UNKNOWN:
                raise
            known = self._get(f"{self._root}/release/")
            raise DataError(
                f"{self._root}: no release {name}; expected latest or one of "
                f"{', '.join(map(str, known[-_SHOWN:]))}"
            ) from error

    def _get(self, url: str) -> Any:
        try:
            return orjson.loads(self._session.text(url, self._headers))
        except RefusedError as error:
            if error.status in _UNAUTHORISED:
                raise DataError(
                    f"{url}: the server answers {error.status}; the key in {KEY} is not accepted"
                ) from error
            raise
        except orjson.JSONDecodeError as error:
            raise DataError(f"{url}: the answer is not JSON ({error}); is it the API's?") from error


def _bare(address: str) -> str:
    """An address without its signature."""
    return address.partition("?")[0]


def _without_signatures(message: str) -> str:
    return re.sub(r"\?\S*?(?=[:;,]?(?:\s|$))", "", message)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
