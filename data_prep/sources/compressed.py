"""Compressed inputs: opened by their suffix, and refused where they were compressed twice."""

import zlib
from pathlib import Path
from typing import BinaryIO

from isal import igzip, isal_zlib

from data_prep.documents import open_lines
from data_prep.errors import DataError

SUFFIXES = (".gz", ".tgz", ".zst")
# First bytes of gzip (RFC 1952, section 2.3.1) and of a Zstandard frame (RFC 8878, section 3.1.1).
_MAGIC = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")

UNREADABLE = (EOFError, OSError, zlib.error, isal_zlib.IsalError)
"""What reading a compressed file raises where it is cut or damaged."""


def is_compressed(head: bytes) -> bool:
    """Whether these are the first bytes of a gzip or Zstandard stream."""
    return head.startswith(_MAGIC)


def open_input(path: Path) -> BinaryIO:
    """The bytes of a file that may be compressed (.gz, .tgz, .zst); reading raises one of UNREADABLE where it is cut."""
    if path.suffix in (".gz", ".tgz"):
        return igzip.open(path, "rb")
    return open_lines(path)


def is_twice_compressed(path: Path) -> bool:
    """Whether what a compressed file holds is itself compressed; only its beginning is read."""
    if not path.name.endswith(SUFFIXES):
        return False
    try:
        with open_input(path) as stream:
            return is_compressed(stream.read(4))
    except UNREADABLE:  # type: ignore[misc]
        return False  # the format's reader says where it breaks


def refuse_twice_compressed(path: Path) -> None:
    """Raise DataError where what a compressed file holds is itself compressed."""
    if is_twice_compressed(path):
        raise DataError(
            f"{path}: compressed twice: what it unpacks to is compressed again; unpack it once"
        )
