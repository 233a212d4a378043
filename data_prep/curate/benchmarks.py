"""Reads benchmark files: which texts each question has, whatever the file calls them.

A file is JSON (a list of records, an object of records by key as PubMedQA's, or an object in which one
list of records is), JSON lines, CSV or Parquet. A question is known by its benchmark and its key: that of
the object, or the record's number in the file from 0.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.config import Benchmark
from data_prep.documents import read_json_lines
from data_prep.errors import ConfigError, DataError
from data_prep.files import sha256_file

Records = list[tuple[str, dict[str, Any]]]
"""Each record with its key."""

_SHOWN = 20  # fields that an error lists


@dataclass(frozen=True)
class Question:
    """What must not be trained on; `texts` are the strings in the fields, in order."""

    benchmark: str
    key: str
    texts: tuple[str, ...]


def read_benchmark(benchmark: Benchmark) -> list[Question]:
    """The questions of a benchmark.

    Raises ConfigError where the file or a field is not there, DataError where the file is broken.
    """
    records = _read(benchmark)
    if not records:
        raise DataError(f"{benchmark.path}: no records; expected a benchmark's questions")
    for field in benchmark.fields:
        if not any(True for _, record in records for _ in _values(record, field)):
            known = sorted({name for _, record in records for name in _names(record)})
            raise ConfigError(
                f"benchmark {benchmark.name}: no record of {benchmark.path} has text in the field "
                f"{field!r}; name some of: {', '.join(known[:_SHOWN])}"
            )
    return [
        Question(
            benchmark.name,
            key,
            tuple(text for field in benchmark.fields for text in _values(record, field)),
        )
        for key, record in records
    ]


def benchmark_settings(benchmarks: Sequence[Benchmark]) -> list[dict[str, Any]]:
    """Name, fields and content hash of each: what determines its questions.

    Raises ConfigError where a file is not there or two benchmarks have one name.
    """
    names = [benchmark.name for benchmark in benchmarks]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ConfigError(
            f"curate.decontaminate.benchmarks: two are named {min(doubled)!r}; rename one"
        )
    return [
        {"name": one.name, "fields": one.fields, "sha256": sha256_file(_existing(one))}
        for one in benchmarks
    ]


def _existing(benchmark: Benchmark) -> Path:
    if not benchmark.path.is_file():
        raise ConfigError(
            f"benchmark {benchmark.name}: {benchmark.path} is no file; give the path of its questions"
        )
    return benchmark.path


def _read(benchmark: Benchmark) -> Records:
    path = _existing(benchmark)
    try:
        if path.suffix == ".json":
            return _read_json(path)
        if path.name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
            return _numbered(read_json_lines(path), path)
        if path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as stream:
                return _numbered(csv.DictReader(stream), path)
        if path.suffix == ".parquet":
            return _numbered(pq.read_table(path).to_pylist(), path)
    except (UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise DataError(f"{path}: not readable as {path.suffix[1:]} ({error})") from error
    raise ConfigError(
        f"benchmark {benchmark.name}: {path} is of no known format; "
        "expected .json, .jsonl (.gz, .zst), .csv or .parquet"
    )


def _read_json(path: Path) -> Records:
    try:
        value = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError:
        # Some sets (MedMCQA) call JSON lines .json.
        return _numbered(read_json_lines(path), path)
    if isinstance(value, dict):
        if all(isinstance(record, dict) for record in value.values()):
            return list(value.items())
        lists = [part for part in value.values() if isinstance(part, list)]
        value = lists[0] if len(lists) == 1 else [value]
    return _numbered(value if isinstance(value, list) else [value], path)


def _numbered(records: Iterable[Any], path: Path) -> Records:
    numbered = [(str(number), record) for number, record in enumerate(records)]
    for number, record in numbered:
        if not isinstance(record, dict):
            raise DataError(
                f"{path}: record {number} is a {type(record).__name__}; expected records with named fields"
            )
    return numbered


def _values(value: Any, field: str) -> Iterator[str]:
    """The texts in a field of a record; dots lead into records, and lists are entered everywhere."""
    if isinstance(value, list):
        for item in value:
            yield from _values(item, field)
    elif not field:
        if isinstance(value, str) and value.strip():
            yield value
    elif isinstance(value, dict):
        if field in value:
            yield from _values(value[field], "")
        else:
            name, _, rest = field.partition(".")
            if rest:
                yield from _values(value.get(name), rest)


def _names(value: Any, prefix: str = "") -> Iterator[str]:
    """The fields in which a record has texts, as `_values` takes them."""
    if isinstance(value, list):
        for item in value:
            yield from _names(item, prefix)
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _names(part, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(value, str) and value.strip():
        yield prefix
