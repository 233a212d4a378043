"""Files that appear whole or not at all, and hashes of content."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.errors import ConfigError


def fsync_folder(folder: Path) -> None:
    """Make the folder's entries (a rename, say) survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _aside(path: Path) -> Path:
    return path.parent / f".{path.name}.{secrets.token_hex(4)}.partial"


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that takes its name when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _aside(path)
    try:
        yield partial
        fsync_file(partial)
        partial.replace(path)
        fsync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def folder_atomically(folder: Path) -> Iterator[Path]:
    """Give an empty temporary folder that takes the place of `folder` when the block ends well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = _aside(folder)
    partial.mkdir()
    try:
        yield partial
        for path in partial.rglob("*"):
            if path.is_file():
                fsync_file(path)
        replaced = _aside(folder)
        if folder.exists():
            folder.rename(replaced)
        partial.rename(folder)
        fsync_folder(folder.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def new_folder(folder: Path, command: str) -> Iterator[Path]:
    """folder_atomically for what a command makes anew; raises ConfigError where the folder exists."""
    if folder.exists():
        raise ConfigError(
            f"{command}: {folder} exists already; give a folder that does not, or remove it"
        )
    with folder_atomically(folder) as partial:
        yield partial


def remove_partials(folder: Path) -> None:
    """Remove what a killed process left half-written directly in `folder`."""
    for path in folder.glob(".*.partial"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(value: Any) -> str:
    """Hex SHA-256 of the canonical JSON of a JSON-able value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys sorted, readable."""
    with write_atomically(path) as partial:
        text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False)
        partial.write_text(text + "\n", encoding="utf-8")
