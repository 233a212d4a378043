"""MosaicML's MDS files: a folder with index.json and shard files of samples.

As streaming 0.13 reads and writes them, little-endian: a shard holds the number of samples and, for each and
the end, its first byte (uint32 each), the JSON of its columns, and the samples. A sample holds the sizes
of its columns of varying size (uint32), and then the columns in the order of their names. index.json names
the shards, with their columns, sizes, hashes and compression.
"""

import bz2
import gzip
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import zstandard

from data_prep.errors import DataError
from data_prep.files import read_json

INDEX = "index.json"
VERSION = 2
SHARD_BYTES = 1 << 26  # streaming's own default; all of a shard's offsets must fit uint32
HASH = "sha256"
COMPRESSIONS = {"gz": gzip.decompress, "bz2": bz2.decompress}
_NDARRAY_TYPES = {8: "u1", 9: "i1", 16: "u2", 17: "i2", 32: "u4", 33: "i4", 64: "u8", 65: "i8"}
_SHAPE_TYPES = ("u1", "<u2", "<u4", "<u8")

Sample = dict[str, memoryview]  # column to its encoded bytes


class MdsWriter:
    """Writes samples as shards of about SHARD_BYTES; index.json comes last. Memory: one shard."""

    def __init__(self, folder: Path, columns: Mapping[str, tuple[str, int | None]]):
        """`columns`: name to encoding and its size in bytes, None where that varies."""
        self._folder = folder
        self._names = sorted(columns)
        self._sizes = [columns[name][1] for name in self._names]
        self._config = {
            "version": VERSION,
            "format": "mds",
            "compression": None,
            "hashes": [HASH],
            "size_limit": SHARD_BYTES,
            "column_names": self._names,
            "column_encodings": [columns[name][0] for name in self._names],
            "column_sizes": self._sizes,
        }
        self._described = json.dumps(self._config, sort_keys=True).encode()
        self._shards: list[dict[str, Any]] = []
        self._samples: list[bytes] = []
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is None:
            self._flush()
            index = {"version": VERSION, "shards": self._shards}
            (self._folder / INDEX).write_text(json.dumps(index, sort_keys=True))

    def write(self, values: Mapping[str, bytes]) -> None:
        parts = [values[name] for name in self._names]
        varying = [len(part) for part, size in zip(parts, self._sizes, strict=True) if size is None]
        sample = b"".join([np.array(varying, "<u4").tobytes(), *parts])
        if self._samples and self._bytes + len(sample) > SHARD_BYTES:
            self._flush()
        self._samples.append(sample)
        self._bytes += len(sample) + 4

    def _flush(self) -> None:
        if not self._samples:
            return
        count = len(self._samples)
        begin = 4 + 4 * (count + 1) + len(self._described)
        offsets = begin + np.cumsum([0, *map(len, self._samples)])
        content = b"".join(
            [np.array([count, *offsets], "<u4").tobytes(), self._described, *self._samples]
        )
        name = f"shard.{len(self._shards):05}.mds"
        (self._folder / name).write_bytes(content)
        hashes = {HASH: hashlib.new(HASH, content).hexdigest()}
        about = {"basename": name, "bytes": len(content), "hashes": hashes}
        self._shards.append(self._config | {"samples": count, "raw_data": about, "zip_data": None})
        self._samples, self._bytes = [], 0


@dataclass(frozen=True)
class MdsShard:
    """A shard as index.json tells of it."""

    folder: Path
    about: Mapping[str, Any]

    @property
    def columns(self) -> dict[str, str]:
        """Name and encoding of each column."""
        names, encodings = self.about["column_names"], self.about["column_encodings"]
        return dict(zip(names, encodings, strict=True))

    @property
    def path(self) -> Path:
        """The file as it is there: raw, or compressed."""
        raw = self.folder / self.about["raw_data"]["basename"]
        packed = self.about.get("zip_data")
        return raw if raw.exists() or not packed else self.folder / packed["basename"]

    def check_described(self) -> None:
        """Raises KeyError, TypeError or ValueError where index.json does not say what reading needs."""
        _ = self.columns, self.path, self.raw_bytes, int(self.about["samples"])
        packed = self.about.get("zip_data")
        for about in (self.about["raw_data"], *([packed] if packed else [])):
            _ = int(about["bytes"]), dict(about["hashes"])
        if len(self.about["column_sizes"]) != len(self.about["column_names"]):
            raise ValueError("column_sizes are not as many as column_names")

    @property
    def raw_bytes(self) -> int:
        """Of the file before compression."""
        return int(self.about["raw_data"]["bytes"])

    def samples(self) -> Iterator[Sample]:
        """Raises DataError where the file is truncated or its hash is another."""
        content = self._content()
        try:
            count = int(np.frombuffer(content, "<u4", 1)[0])
            offsets = np.frombuffer(content, "<u4", count + 1, 4).tolist()
        except ValueError as error:
            raise self._damaged("it ends within its offsets") from error
        if count != self.about["samples"] or offsets[-1] != len(content):
            raise self._damaged(f"it holds {count} samples up to byte {offsets[-1]}")
        names, sizes = self.about["column_names"], self.about["column_sizes"]
        view = memoryview(content)
        for begin, end in pairwise(offsets):
            yield _columns(view[begin:end], names, sizes)

    def _content(self) -> bytes:
        path = self.path
        if not path.is_file():
            raise DataError(f"{path}: missing, but {INDEX} names it; copy the folder again")
        content = path.read_bytes()
        packed = self.about.get("zip_data")
        if packed and path.name == packed["basename"]:
            self._check(content, packed)
            content = self._decompressed(content)
        self._check(content, self.about["raw_data"])
        return content

    def _check(self, content: bytes, about: Mapping[str, Any]) -> None:
        if len(content) != about["bytes"]:
            raise self._damaged(f"it has {len(content)} bytes, {INDEX} says {about['bytes']}")
        for name, expected in about["hashes"].items():
            # streaming knows xxHash too, which is not in Python; the length was compared.
            if name in hashlib.algorithms_available:
                found = hashlib.new(name, content).hexdigest()
                if found != expected:
                    raise self._damaged(f"its {name} is {found}, {INDEX} says {expected}")

    def _decompressed(self, content: bytes) -> bytes:
        name = self.about["compression"].partition(":")[0]
        try:
            if name == "zstd":
                size = self.raw_bytes
                return zstandard.ZstdDecompressor().decompress(content, max_output_size=size)
            return COMPRESSIONS[name](content)
        except KeyError as error:
            known = ", ".join(["zstd", *COMPRESSIONS])
            raise DataError(
                f"{self.path}: compressed with {name}; read are {known}: write it with one of these"
            ) from error
        except (OSError, EOFError, ValueError, zstandard.ZstdError) as error:
            raise self._damaged(f"it cannot be decompressed ({error})") from error

    def _damaged(self, found: str) -> DataError:
        return DataError(f"{self.path}: {found}; it was truncated or changed: copy it again")


def read_index(folder: Path) -> list[MdsShard]:
    """The shards that index.json names; raises DataError where it is none."""
    path = folder / INDEX
    try:
        index = read_json(path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot read ({error.strerror}); expected the folder of an MDS dataset"
        ) from error
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON; copy it again") from error
    try:
        shards = [MdsShard(folder, about) for about in index["shards"]]
        known = index["version"] == VERSION and all(
            (about["version"], about["format"]) == (VERSION, "mds") for about in index["shards"]
        )
        for shard in shards:
            shard.check_described()
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not the index of an MDS dataset ({error!r})") from error
    if not known or not shards:
        raise DataError(
            f"{path}: expected shards of format mds, version {VERSION}, found others or none"
        )
    return shards


def decode_array(value: memoryview, encoding: str) -> np.ndarray:
    """An ndarray of integers, flat. Raises ValueError, TypeError or IndexError where it is none."""
    kind, _, rest = encoding.partition(":")
    dtype, _, shape = rest.partition(":")
    if kind == "bytes":  # LLM Foundry's older datasets; its reader takes these for int64 by default
        return np.frombuffer(value, "<i8")
    place = 0
    if not dtype:
        dtype, place = _NDARRAY_TYPES.get(value[0], "another type"), 1
    axes = [int(length) for length in shape.split(",")] if shape else []
    if not shape:
        width, size = _SHAPE_TYPES[value[place] & 3], value[place] >> 2
        axes = np.frombuffer(value, width, size, place + 1).tolist()
        place += 1 + size * np.dtype(width).itemsize
    found = np.frombuffer(value[place:], np.dtype(dtype).newbyteorder("<"))
    if len(found) != math.prod(axes):
        raise ValueError(f"{len(found)} values in the shape {axes}")
    if found.dtype.kind not in "iu":
        raise ValueError(f"{found.dtype} are not token ids")
    return found


def _columns(sample: memoryview, names: Sequence[str], sizes: Sequence[int | None]) -> Sample:
    varying = [name for name, size in zip(names, sizes, strict=True) if not size]
    head = np.frombuffer(sample, "<u4", len(varying)).tolist()
    begin, given = 4 * len(varying), iter(head)
    found = {}
    for name, size in zip(names, sizes, strict=True):
        length = size or next(given)
        found[name] = sample[begin : begin + length]
        begin += length
    return found
