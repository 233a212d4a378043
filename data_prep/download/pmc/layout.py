"""How PMC's bucket is laid out, and what its metadata says about an article version.

Source: the bucket's README.txt (https://pmc-oa-opendata.s3.amazonaws.com/README.txt). An article version is
called by its PMCID and version, `PMC13901.1`. A key of ours is both in one number, in their order:
PMCID x 10,000 + version.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import orjson

from data_prep.errors import DataError
from data_prep.source_config import ALL_LICENCES, Bucket
from data_prep.sources.licence import licence_group, named_licence

# Daily inventories of the metadata, kept for 30 days, in folders named by their time.
INVENTORIES = "inventory-reports/pmc-oa-opendata/metadata"
STAMP = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}-\d{2}Z")
METADATA_FOLDER = "metadata/"
METADATA_KEY = r"^metadata/PMC(?P<pmcid>[0-9]{1,14})\.(?P<version>[0-9]{1,4})\.json$"
# What every article version's metadata have to say, and what is left out where there is none of it.
FLAGS = ("is_manuscript", "is_historical_ocr", "is_retracted")
REQUIRED = ("pmcid", "version", *FLAGS)
OPTIONAL = ("license_code", "xml_url")
VERSIONS = 10_000  # of one article, at most: the regular expression above allows four digits

_NAME = re.compile(r"PMC([0-9]{1,14})\.([0-9]{1,4})")
_MANUSCRIPT, _OCR = 4, 8  # beside two bits for the licence's group


def name_of(key: int) -> str:
    """ "PMC13901.1", as the bucket writes an article version."""
    return f"PMC{key // VERSIONS}.{key % VERSIONS}"


def key_of(name: str) -> int | None:
    """The key of an article version; None where the name is none's."""
    match = _NAME.fullmatch(name)
    return int(match[1]) * VERSIONS + int(match[2]) if match else None


def metadata_key(name: str) -> str:
    """Where in the bucket the metadata of an article version is."""
    return f"{METADATA_FOLDER}{name}.json"


@dataclass(frozen=True)
class Metadata:
    """What an article version's JSON says; `record` is all of it."""

    record: dict[str, Any]
    traits: int  # licence group, manuscript, OCR: what a config chooses by
    xml_key: str | None  # in the bucket
    xml_md5: str | None


def read_metadata(content: bytes, name: str) -> Metadata:
    """The metadata of the article version `name`. Raises DataError where its form is not the known one."""
    try:
        record = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{metadata_key(name)}: not JSON ({error})") from error
    missing = [key for key in REQUIRED if not isinstance(record, dict) or key not in record]
    strange = [key for key in FLAGS if not missing and record[key] not in (True, False, None)]
    if missing or strange:
        what = f"no {', '.join(missing)} in it" if missing else f"{strange[0]} is not true or false"
        raise DataError(f"{metadata_key(name)}: {what}; the form of PMC's metadata has changed")
    found = f"{record['pmcid']}.{record['version']}"
    if found != name:
        raise DataError(f"{metadata_key(name)}: it is about {found}")
    address = urlsplit(record.get("xml_url") or "")
    traits = ALL_LICENCES.index(licence_group(named_licence(record.get("license_code") or "")))
    traits |= _MANUSCRIPT * bool(record["is_manuscript"]) | _OCR * bool(record["is_historical_ocr"])
    md5 = parse_qs(address.query).get("md5", [None])[0]
    return Metadata(record, traits, address.path.lstrip("/") or None, md5 and md5.lower())


def are_wanted(traits: np.ndarray, bucket: Bucket) -> np.ndarray:
    """Which articles the config asks for, by their traits."""
    groups = [ALL_LICENCES.index(group) for group in bucket.licences]
    wanted = np.isin(traits & 3, groups)
    if not bucket.manuscripts:
        wanted &= (traits & _MANUSCRIPT) == 0
    if not bucket.ocr:
        wanted &= (traits & _OCR) == 0
    return wanted


def count_unwanted(traits: int, bucket: Bucket, tally: Counter[str]) -> None:
    """Count why the config does not ask for an article."""
    group = ALL_LICENCES[traits & 3]
    if group not in bucket.licences:
        tally[f"licence {group}"] += 1
    elif traits & _MANUSCRIPT and not bucket.manuscripts:
        tally["author manuscripts"] += 1
    else:
        tally["scans read by a machine"] += 1
