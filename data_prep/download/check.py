"""Asks every place that a corpus's sources come from whether it is still what the config takes it for.

Mirrors move and change form; each finding is a line that says what was found and what to do.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2
from rich.markup import escape

from data_prep.config import CorpusConfig
from data_prep.download.inventory import SUFFIXES, find_files, is_wanted
from data_prep.download.mirror import current_release, is_listing, missing_numbers, releases
from data_prep.download.pmc.client import BucketClient, GoneError
from data_prep.download.pmc.inventory import STALE_DAYS, age_in_days, newest_manifest, open_bucket
from data_prep.download.pmc.layout import INVENTORIES, METADATA_FOLDER, OPTIONAL, read_metadata
from data_prep.download.semantic_scholar import KEY
from data_prep.download.transfer import TIMEOUT_S, Patience, linked_names
from data_prep.errors import ConfigError, DataError
from data_prep.progress import console
from data_prep.source_config import Bucket, Dataset, Release, Source

State = Literal["ok", "moved", "retired", "changed", "unreachable"]

SAMPLE = 5  # articles that are looked at
_STYLES = {"ok": "green", "moved": "yellow"}
# Somebody waits for the answer: twice is enough to pass over a single fault.
_PATIENCE = Patience(attempts=2, first_s=1.0, longest_s=1.0)


@dataclass(frozen=True)
class Finding:
    """What one place answered."""

    source: str
    place: str
    state: State
    message: str


def check_sources(config: CorpusConfig) -> list[Finding]:
    """Probe every origin of every source; nothing is fetched but listings and single small files."""
    return [
        Finding(name, *finding)
        for name, source in sorted(config.sources.items())
        for finding in _probe(name, source)
    ]


def tell(findings: list[Finding]) -> bool:
    """Print a line for each finding; whether all is as it should be."""
    for found in findings:
        state = f"[{_STYLES.get(found.state, 'red')}]{found.state:11}[/]"
        about = escape(f"{found.source}: {found.place}: {found.message}")
        console.print(f"{state} {about}", highlight=False, soft_wrap=True)
    return all(found.state == "ok" for found in findings)


Found = tuple[str, State, str]


def _probe(name: str, source: Source) -> Iterator[Found]:
    if source.path:
        yield _folder(source.path, source.format, f"sources.{name}.path")
    if source.url:
        yield from _addresses(source)
    if source.bucket:
        yield from _bucket(source.bucket)
    if source.release:
        yield _release(source.release)
    if source.dataset:
        yield _dataset(source.dataset)


def _folder(path: Path, format: str, field: str) -> Found:
    try:
        files = find_files(path, format, field)
    except ConfigError as error:
        return str(path), "unreachable", str(error)
    return str(path), "ok", f"{len(files):,} files of format {format}"


def _get(url: str, method: str = "GET") -> tuple[httpx2.Response | None, Found | None]:
    """The answer, and what is wrong with it: where it was sent on to, or that there is none."""
    try:
        with httpx2.Client(timeout=TIMEOUT_S, follow_redirects=True) as client:
            answer = client.request(method, url)
    except httpx2.HTTPError as error:
        return None, (
            url,
            "unreachable",
            f"{error or type(error).__name__}; check the network or the URL",
        )
    if answer.status_code in (404, 410):
        advice = "look for where it went, and change the config"
        return None, (url, "retired", f"the server answers {answer.status_code}; {advice}")
    if not answer.is_success:
        advice = "try again later"
        return None, (url, "unreachable", f"the server answers {answer.status_code}; {advice}")
    if answer.history:
        return answer, (url, "moved", f"to {answer.url}; put that into the config")
    return answer, None


def _addresses(source: Source) -> Iterator[Found]:
    listed: set[str] = set()
    for url in source.url:
        if not is_listing(url, source.format):
            yield _file(url)
            continue
        folder = url.rstrip("/") + "/"
        answer, wrong = _get(folder)
        if wrong:
            yield wrong
        if answer is None:
            continue
        names = set(linked_names(str(answer.url), answer.content))
        inputs = {name for name in names if is_wanted(name, source.format)}
        listed |= inputs
        yield folder, *_listing(names, inputs, source.format)
    if source.format == "pubmed" and listed:
        yield "all listings", *_release_years(listed)


def _listing(names: set[str], inputs: set[str], format: str) -> tuple[State, str]:
    if not inputs:
        expected = ", ".join(f"*{suffix}" for suffix in SUFFIXES[format])
        return "changed", f"no file for format {format} listed; expected {expected}"
    bare = sorted(name for name in inputs if f"{name}.md5" not in names)
    if format == "pubmed" and bare:
        return "changed", f"{len(bare):,} of {len(inputs):,} files have no .md5, as {bare[0]}"
    return "ok", f"{len(inputs):,} files" + ("" if bare else ", each with its .md5")


def _release_years(names: set[str]) -> tuple[State, str]:
    years = sorted(releases(names))
    if not years:
        return "changed", "no baseline: none of the files has number 1; list baseline/ as well"
    current = current_release(names)
    missing = missing_numbers(current)
    text = f"release 20{years[-1]}, {len(current):,} files"
    if missing:
        return (
            "changed",
            f"{text}, but none of number {', '.join(map(str, missing[:10]))}; try again later",
        )
    left = len(names) - len(current)
    return "ok", f"{text}, no number missing" + (f"; {left:,} of former years" if left else "")


def _file(url: str) -> Found:
    from fsspec.core import url_to_fs

    from data_prep.download.remote_files import file_system_options

    try:
        if urlsplit(url).scheme in ("http", "https"):
            answer, wrong = _get(url, "HEAD")
            return wrong or (
                url,
                "ok",
                f"{answer.headers.get('Content-Length', '?') if answer else '?'} bytes",
            )
        files, path = url_to_fs(url, **file_system_options(urlsplit(url).scheme))
        found = files.find(path) if url.endswith("/") else files.glob(path)
    except Exception as error:  # each kind of file system has errors of its own
        return url, "unreachable", f"{_line(error)}; check the address and who may read it"
    if not found:
        return url, "retired", "there is no such file; check the address"
    return url, "ok", f"{len(found):,} files"


def _bucket(bucket: Bucket) -> Iterator[Found]:
    place = f"s3://{bucket.name}/{INVENTORIES}"
    try:
        files = open_bucket(bucket)
        stamp, manifest = newest_manifest(files, bucket, _PATIENCE)
        age = age_in_days(stamp)
        text = f"inventory of {stamp}, {len(manifest['files'])} files"
        if age > STALE_DAYS:
            yield (
                place,
                "changed",
                f"{text}, is {age:.0f} days old; PMC makes one a day: look at its news",
            )
        else:
            yield place, "ok", text
    except FileNotFoundError:
        yield place, "retired", "there is no such folder; look at the bucket's README.txt"
    except DataError as error:
        yield place, "unreachable", str(error)
    yield _articles(bucket)


def _articles(bucket: Bucket) -> Found:
    """Some articles' metadata and an XML, read as the download does."""
    place = f"s3://{bucket.name}/{METADATA_FOLDER}"
    try:
        answer = open_bucket(bucket).call_s3(
            "list_objects_v2", Bucket=bucket.name, Prefix=METADATA_FOLDER, MaxKeys=SAMPLE
        )
    except Exception as error:  # botocore's and s3fs's
        return place, "unreachable", f"{_line(error)}; check the network"
    keys = [item["Key"] for item in answer.get("Contents", [])]
    if not keys:
        return place, "retired", "nothing is there any more; look at the bucket's README.txt"
    try:
        return place, "ok", asyncio.run(_read_articles(bucket, keys))
    except GoneError as error:
        return place, "retired", f"{error} is not there; look at the bucket's README.txt"
    except DataError as error:
        return place, "changed", str(error)


async def _read_articles(bucket: Bucket, keys: list[str]) -> str:
    async with BucketClient(bucket, _PATIENCE) as client:
        names = [key.removeprefix(METADATA_FOLDER).removesuffix(".json") for key in keys]
        pairs = zip(keys, names, strict=True)
        found = [read_metadata((await client.get(key))[0], name) for key, name in pairs]
        # One article may lack them, as it may have no licence.
        missing = [key for key in OPTIONAL if not any(key in each.record for each in found)]
        if missing:
            raise DataError(f"{keys[0]}: no {' and '.join(missing)} in it, nor in the next ones")
        for name, metadata in zip(names, found, strict=True):
            if metadata.xml_key:
                content, md5 = await client.get(metadata.xml_key)
                if metadata.xml_md5 != md5:
                    raise DataError(
                        f"{metadata.xml_key}: its MD5 is {md5}, its metadata say {metadata.xml_md5}"
                    )
                return f"metadata and XML of {name}, {len(content):,} bytes"
        raise DataError(f"{keys[0]} and the next ones: none has an XML")


def _release(release: Release) -> Found:
    """The list of releases, which needs no key; the files of one do."""
    url = f"{release.endpoint.rstrip('/')}/release/"
    answer, wrong = _get(url)
    if answer is None or wrong:
        return wrong or (url, "unreachable", "no answer")
    names: Any = _json(answer)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return (
            url,
            "changed",
            "expected a list of names of releases; look at Semantic Scholar's API",
        )
    if release.name not in ("latest", *names):
        return url, "retired", f"no release {release.name}; the newest is {max(names)}"
    if not os.environ.get(KEY):
        return url, "unreachable", f"reachable, but {KEY} is not set: files need a key"
    return url, "ok", f"{len(names):,} releases, the newest {max(names)}"


def _json(answer: httpx2.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _dataset(dataset: Dataset) -> Found:
    if Path(dataset.name).exists():
        return dataset.name, "ok", "a local folder"
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    look: Callable[..., Any] = HfApi().dataset_info
    try:
        info = look(dataset.name, revision=dataset.revision, timeout=TIMEOUT_S)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        return dataset.name, "retired", f"{_line(error)}; check the name, or set HF_TOKEN"
    except Exception as error:  # of the network, of several libraries
        return dataset.name, "unreachable", f"{_line(error)}; check the network"
    return dataset.name, "ok", f"revision {info.sha}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
