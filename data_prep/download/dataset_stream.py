"""Documents streamed out of a dataset that the library `datasets` knows: one of the Hugging Face hub, or a folder of files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import zstandard

from data_prep.download.inventory import HashCache, inspect_files
from data_prep.download.mirror import Rows
from data_prep.download.transfer import Patience, keep
from data_prep.errors import DataError
from data_prep.files import digest, read_json, write_json
from data_prep.progress import console
from data_prep.source_config import Dataset, Fields, Source
from data_prep.sources.records import names_of

PART_BYTES = 256_000_000  # of a part, compressed, about
_STATE = "stream.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LEVEL = 3  # Zstandard's own default; one thread, because threads change the bytes


def fetch(
    title: str,
    source: Source,
    folder: Path,
    previous: Rows,
    patience: Patience,
    part_bytes: int = PART_BYTES,
) -> tuple[Rows, set[str]]:
    """Write the dataset's first documents to `folder/files/part-000000.jsonl.zst` …; manifest rows, and the names written.

    Records keep the fields that `source.fields` names. What is there already is kept while the dataset's revision is
    the same: a run that was stopped goes on after its last whole part. Rows have the commit as validator, or the hash of
    a folder's files. Raises DataError where the dataset cannot be read.
    """
    dataset = source.dataset or Dataset(name="", documents=1)
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    revision = _revision(dataset, folder)
    what = digest([dataset.model_dump(), source.fields.model_dump(), revision, part_bytes])
    state = _known_state(folder, what)
    changed = set()
    if not state["whole"]:
        done = sum(part["documents"] for part in state["parts"])
        console.print(f"{title}: {dataset.name} from document {done + 1} on")
        records = _records(dataset, revision, source.fields, done)
        for part in _write_parts(records, files, len(state["parts"]), part_bytes):
            state["parts"].append(part)
            changed.add(part["name"])
            write_json(folder / _STATE, state)
        state["whole"] = True
        write_json(folder / _STATE, state)
    if not state["parts"]:
        raise DataError(f"{dataset.name}: split {dataset.split} is empty; expected documents")
    names = [part["name"] for part in state["parts"]]
    rows = inspect_files(files, names, HashCache(folder / "hashes.jsonl"), workers=1)[0]
    return [row | {"url": dataset.name, "validator": revision} for row in rows], changed


def _known_state(folder: Path, what: str) -> dict[str, Any]:
    """What earlier runs wrote of the same documents: {"what", "whole", "parts": [{"name", "documents", "bytes"}]}."""
    fresh: dict[str, Any] = {"what": what, "whole": False, "parts": []}
    path = folder / _STATE
    state = read_json(path) if path.exists() else fresh
    if state["what"] != what:
        return fresh
    for number, part in enumerate(state["parts"]):
        file = folder / "files" / part["name"]
        if not file.is_file() or file.stat().st_size != part["bytes"]:
            return fresh | {"parts": state["parts"][:number]}
    return state


def _revision(dataset: Dataset, folder: Path) -> str:
    """The commit that the dataset is at, or the hash of a local folder's files."""
    local = Path(dataset.name)
    if local.is_dir():
        files = sorted(path for path in local.rglob("*") if path.is_file())
        names = [path.relative_to(local).as_posix() for path in files]
        rows = inspect_files(local, names, HashCache(folder / "dataset_hashes.jsonl"), workers=1)[0]
        return digest([(row["name"], row["sha256"]) for row in rows])
    if _COMMIT.fullmatch(dataset.revision or ""):
        return str(dataset.revision)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(dataset.name, revision=dataset.revision).sha)
    except Exception as error:  # the library's own, the network's, a name that is none
        raise _unreadable(dataset, error) from error


def _unreadable(dataset: Dataset, error: Exception) -> DataError:
    reason = " ".join(str(error).split()) or type(error).__name__
    advice = "check the name, the split and the revision"
    if "offline" in f"{type(error).__name__} {reason}".lower():
        advice = "unset HF_HUB_OFFLINE, or name a folder that holds the dataset"
    return DataError(f"dataset {dataset.name}: cannot be read: {reason}; {advice}")


def _records(
    dataset: Dataset, revision: str, fields: Fields, skip: int
) -> Iterator[dict[str, Any]]:
    """The records of the dataset after the first `skip` ones, with the wanted fields."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import datasets

    # It imports PyTorch to look whether this is a worker of a data loader.
    datasets.config.TORCH_AVAILABLE = False
    wanted = {value for value in fields.model_dump().values() if value}
    wanted |= {value.partition(".")[0] for value in wanted}
    try:
        stream = datasets.load_dataset(
            dataset.name,
            dataset.config,
            split=dataset.split,
            revision=None if Path(dataset.name).is_dir() else revision,
            streaming=True,
        )
        for record in islice(stream.skip(skip), dataset.documents - skip):
            kept = {name: value for name, value in record.items() if name in wanted}
            if not {fields.text, fields.text.partition(".")[0]} & kept.keys():
                raise DataError(
                    f'dataset {dataset.name}: no field "{fields.text}"; the fields are '
                    f"{names_of(record)}: set fields.text of the source to one of them"
                )
            yield kept
    except DataError:
        raise
    except Exception as error:  # the library's own, the network's, a file that is broken
        raise _unreadable(dataset, error) from error


def _write_parts(
    records: Iterator[dict[str, Any]], files: Path, number: int, part_bytes: int
) -> Iterator[dict[str, Any]]:
    """Write the records in parts, from that number on; each is yielded when it is whole."""
    records = iter(records)
    while (first := next(records, None)) is not None:
        name = f"part-{number:06d}.jsonl.zst"
        part = files / f".{name}.part"
        documents = 1
        with part.open("wb") as file:
            stream = zstandard.ZstdCompressor(level=_LEVEL).stream_writer(file, closefd=False)
            with stream:
                stream.write(_line(first))
                while file.tell() < part_bytes and (record := next(records, None)) is not None:
                    stream.write(_line(record))
                    documents += 1
        keep(part, files / name)
        yield {"name": name, "documents": documents, "bytes": (files / name).stat().st_size}
        number += 1


def _line(record: dict[str, Any]) -> bytes:
    return orjson.dumps(record, default=str, option=orjson.OPT_APPEND_NEWLINE)
