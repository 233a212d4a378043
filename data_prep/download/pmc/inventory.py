"""The newest inventory of PMC's bucket: every article version there is, with the state of its metadata.

An inventory is a manifest.json and gzipped CSV files (Amazon S3 Inventory) that list the metadata of every
article version with its ETag, which changes whenever any object of the article does. It is kept as
`inventory/<stamp>.parquet`: 16 bytes an article, only the highest version of each.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from data_prep.download.pmc.layout import INVENTORIES, METADATA_KEY, STAMP, VERSIONS
from data_prep.download.transfer import TIMEOUT_S, BrokenError, Patience
from data_prep.errors import DataError
from data_prep.files import write_atomically
from data_prep.source_config import Bucket

if TYPE_CHECKING:
    from s3fs import S3FileSystem

STALE_DAYS = 3  # PMC makes one a day
_BLOCK_BYTES = 4 << 20  # of CSV that are in memory at a time
_HEX = np.full(256, 255, np.uint8)
_HEX[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Inventory:
    """Article versions, the highest of each article: sorted keys and 64 bits of their metadata's ETags."""

    stamp: str
    keys: np.ndarray
    states: np.ndarray


def age_in_days(stamp: str) -> float:
    """How long ago an inventory was made."""
    made = datetime.strptime(stamp, "%Y-%m-%dT%H-%MZ").replace(tzinfo=UTC)
    return (datetime.now(UTC) - made).total_seconds() / 86_400


def read_newest(bucket: Bucket, folder: Path, patience: Patience) -> Inventory:
    """The newest inventory, from `folder` where it was read before. Raises DataError naming what is wrong."""
    files = open_bucket(bucket)
    stamp, manifest = newest_manifest(files, bucket, patience)
    kept = folder / f"{stamp}.parquet"
    table = _read_kept(kept)
    if table is None:
        keys, states = _highest_versions(*_fetch(files, bucket, manifest, folder, patience))
        table = pa.table({"key": keys, "state": states})
        with write_atomically(kept) as partial:
            pq.write_table(table, partial, compression="zstd")
    for other in folder.iterdir():
        if other != kept:
            other.unlink()
    return Inventory(stamp, table["key"].to_numpy(), table["state"].to_numpy())


def _read_kept(path: Path) -> pa.Table | None:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException):  # not there, or damaged: it can be had again
        return None


def open_bucket(bucket: Bucket) -> S3FileSystem:
    """The bucket as a file system, without credentials."""
    from s3fs import S3FileSystem

    # What botocore tries again it logs as well; the error that is left names the address.
    logging.getLogger("s3fs").setLevel(logging.ERROR)
    files = S3FileSystem(
        anon=True,
        endpoint_url=bucket.endpoint,
        client_kwargs={"region_name": "us-east-1"},  # PMC's; without one botocore refuses to start
        # How often and how patiently to try is decided in one place: _insist.
        config_kwargs={
            "retries": {"total_max_attempts": 1},
            "connect_timeout": TIMEOUT_S,
            "read_timeout": TIMEOUT_S,
        },
        use_listings_cache=False,
    )
    files.retries = 1
    return files


def newest_manifest(
    files: S3FileSystem, bucket: Bucket, patience: Patience
) -> tuple[str, dict[str, Any]]:
    """Stamp and manifest of the newest inventory that is whole; one being written has no manifest yet."""
    place = f"{bucket.name}/{INVENTORIES}"
    listed = _insist(place, patience, lambda: files.ls(place, detail=False))
    stamps = [
        name for path in listed if STAMP.fullmatch(name := path.rstrip("/").rpartition("/")[2])
    ]
    for stamp in sorted(stamps, reverse=True)[:3]:
        path = f"{place}/{stamp}/manifest.json"
        try:
            content = _insist(path, patience, lambda path=path: files.cat_file(path))  # type: ignore[misc]
        except FileNotFoundError:
            continue
        return stamp, _checked(path, content)
    raise DataError(
        f"s3://{place}: no inventory with a manifest.json in a folder such as 2026-01-18T01-00Z; "
        "PMC may have moved it: python -m data_prep sources check CONFIG"
    )


def _checked(path: str, content: bytes) -> dict[str, Any]:
    try:
        manifest = orjson.loads(content)
        columns = manifest["fileSchema"].replace(" ", "").split(",")
        files = [(file["key"], file["MD5checksum"]) for file in manifest["files"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"s3://{path}: not a manifest of an S3 inventory ({error!r})") from error
    if manifest.get("fileFormat") != "CSV" or not {"Key", "ETag"} <= set(columns) or not files:
        raise DataError(
            f"s3://{path}: found {len(files)} files of format {manifest.get('fileFormat')} with columns "
            f"{', '.join(columns)}; expected CSV with Key and ETag"
        )
    return {"columns": columns, "files": files}


def _fetch(
    files: S3FileSystem, bucket: Bucket, manifest: dict[str, Any], folder: Path, patience: Patience
) -> tuple[np.ndarray, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    keys, states = [], []
    for key, md5 in manifest["files"]:
        local = folder / Path(key).name

        def fetch(key: str = key, md5: str = md5, local: Path = local) -> None:
            files.get_file(f"{bucket.name}/{key}", str(local))
            with local.open("rb") as stream:
                found = hashlib.file_digest(stream, "md5").hexdigest()
            if found != md5:
                raise BrokenError(f"its MD5 is {found}, the inventory's manifest says {md5}")

        _insist(f"{bucket.name}/{key}", patience, fetch)
        for some_keys, some_states in read_rows(local, manifest["columns"]):
            keys.append(some_keys)
            states.append(some_states)
        local.unlink()
    if not sum(map(len, keys)):
        raise DataError(
            f"s3://{bucket.name}/{INVENTORIES}: lists no key such as metadata/PMC13901.1.json; "
            "the layout of the bucket has changed"
        )
    return np.concatenate(keys), np.concatenate(states)


def _insist(place: str, patience: Patience, action: Callable[[], Result]) -> Result:
    """The action's result, tried again while the bucket does not answer as it should."""
    from botocore.exceptions import BotoCoreError, ClientError

    failures = 0
    while True:
        try:
            return action()
        except FileNotFoundError:
            raise
        except PermissionError as error:
            raise DataError(
                f"s3://{place}: the bucket does not let anyone read it ({error})"
            ) from error
        except (OSError, BotoCoreError, ClientError, BrokenError, TimeoutError) as error:
            failures += 1
            if failures >= patience.attempts:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise DataError(f"s3://{place}: {reason}, {failures} times in a row") from error
            time.sleep(patience.pause(failures, None))


def read_rows(path: Path, columns: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Keys and states of the metadata that a gzipped CSV of an inventory lists, a block at a time.

    Raises DataError where the file is cut or not CSV.
    """
    try:
        with pa.input_stream(path, compression="gzip") as stream:  # type: ignore[arg-type]
            reader = pacsv.open_csv(
                stream,
                pacsv.ReadOptions(column_names=columns, block_size=_BLOCK_BYTES),
                convert_options=pacsv.ConvertOptions(
                    include_columns=["Key", "ETag"],
                    column_types={"Key": pa.string(), "ETag": pa.string()},
                ),
            )
            for batch in reader:
                yield _articles(batch)
    except (OSError, EOFError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a gzipped CSV of an S3 inventory ({error})") from error


def _articles(batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    matches = pc.extract_regex(batch["Key"], pattern=METADATA_KEY)
    found = pc.is_valid(matches)
    matches, etags = matches.filter(found), batch["ETag"].filter(found)
    pmcid, version = (
        pc.cast(pc.struct_field(matches, name), pa.uint64()).to_numpy(zero_copy_only=False)
        for name in ("pmcid", "version")
    )
    return pmcid * np.uint64(VERSIONS) + version, etag_states(etags)


def etag_states(etags: pa.Array) -> np.ndarray:
    """64 bits of each ETag: the first half of the MD5 that it is, or of the MD5 of whatever else it is."""
    etags = pc.utf8_lower(pc.utf8_trim(etags, characters='"'))
    plain = pc.match_substring_regex(etags, pattern="^[0-9a-f]{32}$")
    if not pc.all(plain).as_py():
        others = [
            etag if is_md5 else hashlib.md5(etag.encode(), usedforsecurity=False).hexdigest()
            for etag, is_md5 in zip(etags.to_pylist(), plain.to_pylist(), strict=True)
        ]
        etags = pa.array(others, pa.string())
    halves = _HEX[_first_letters(etags)]
    return (halves[:, ::2] << 4 | halves[:, 1::2]).view(">u8").ravel().astype(np.uint64)


def _first_letters(etags: pa.Array) -> np.ndarray:
    """The first 16 letters of each ETag, (number, 16) bytes."""
    fixed = etags.cast(pa.binary()).cast(pa.binary(32))
    buffer = np.frombuffer(fixed.buffers()[1], np.uint8)
    start = 32 * fixed.offset
    return buffer[start : start + 32 * len(fixed)].reshape(-1, 32)[:, :16]


def _highest_versions(keys: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(keys, kind="stable")
    keys, states = keys[order], states[order]
    articles = keys // np.uint64(VERSIONS)
    last = np.append(articles[1:] != articles[:-1], True)[: len(keys)]
    return keys[last], states[last]
