"""Megatron's indexed dataset: tokens in NAME.bin, where each document lies in NAME.idx.

As megatron.core.datasets.indexed_dataset (0.16) reads and writes it, little-endian: the index has the magic
MMIDIDX\\0\\0, the version 1 (uint64), the code of the tokens' type (uint8), the numbers of sequences and of
document boundaries (uint64 each), the sequences' lengths in tokens (int32) and first bytes (int64), and the
sequence at which each document begins, with the number of sequences as the last (int64).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from data_prep.errors import DataError
from data_prep.shards.schema import UINT16_VOCABULARY

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
VERSION = 1
TYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}  # 6 and 7 are floats
UINT16, INT32 = 8, 4
TOGETHER = 1 << 16  # documents whose places are looked at together
TOGETHER_TOKENS = 1 << 20  # in memory at once, and one document more


class IndexedDatasetWriter:
    """Writes documents of one sequence each; their number must be known. Memory: what is added at once."""

    def __init__(self, prefix: Path, documents: int, vocabulary_size: int):
        code = UINT16 if vocabulary_size <= UINT16_VOCABULARY else INT32
        self._type = np.dtype(TYPES[code])
        self._documents = documents
        self._added = 0
        self._bin = prefix.with_name(f"{prefix.name}.bin").open("wb")
        self._idx = prefix.with_name(f"{prefix.name}.idx").open("w+b")
        self._idx.write(HEADER.pack(MAGIC, VERSION, code, documents, documents + 1))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is None:
            self._finish()
        self._bin.close()
        self._idx.close()

    def add(self, tokens: np.ndarray, lengths: np.ndarray) -> None:
        """Documents laid end to end, and the tokens of each."""
        self._bin.write(tokens.astype(self._type, copy=False).data)
        self._idx.write(lengths.astype("<i4").data)
        self._added += len(lengths)

    def _finish(self) -> None:
        if self._added != self._documents:
            raise ValueError(f"{self._added} documents added, {self._documents} announced")
        begin = 0
        for first in range(0, self._documents, TOGETHER):
            self._idx.seek(HEADER.size + 4 * first)
            content = self._idx.read(4 * min(TOGETHER, self._documents - first))
            sizes = np.frombuffer(content, "<i4").astype(np.int64) * self._type.itemsize
            self._idx.seek(HEADER.size + 4 * self._documents + 8 * first)
            self._idx.write((begin + np.cumsum(sizes) - sizes).astype("<i8").data)
            begin += int(sizes.sum())
        self._idx.seek(0, 2)
        for first in range(0, self._documents + 1, TOGETHER):
            last = min(first + TOGETHER, self._documents + 1)
            self._idx.write(np.arange(first, last, dtype="<i8").data)


@dataclass(frozen=True)
class _Index:
    lengths: np.ndarray  # int32 (sequences,), in tokens
    pointers: np.ndarray  # int64 (sequences,), in bytes
    documents: np.ndarray  # int64 (documents + 1,), in sequences


class IndexedDataset:
    """Reads an indexed dataset in the order of its documents.

    Raises DataError naming the file where it is truncated or not of this format.
    """

    def __init__(self, prefix: Path):
        self.idx = prefix.with_name(f"{prefix.name}.idx")
        self.bin = prefix.with_name(f"{prefix.name}.bin")
        for path in (self.idx, self.bin):
            if not path.is_file():
                raise DataError(
                    f"{path}: missing; an indexed dataset is a .bin and an .idx of one name"
                )
        self._type, self._index = self._open()
        lengths, pointers = self._index.lengths, self._index.pointers
        self.bytes = self.bin.stat().st_size
        expected = int(pointers[-1]) + int(lengths[-1]) * self._type.itemsize if len(lengths) else 0
        if self.bytes != expected:
            raise DataError(
                f"{self.bin}: has {self.bytes} bytes, its index says {expected}; "
                "it was truncated, or belongs to another .idx: copy both again"
            )

    def __len__(self) -> int:
        return len(self._index.documents) - 1

    def read(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Documents laid end to end, and where each begins with the end as the last (int64)."""
        with self.bin.open("rb") as stream:
            for first in range(0, len(self), TOGETHER):
                begins = self._begins(first, min(first + TOGETHER, len(self)))
                document = 0
                while document < len(begins) - 1:
                    most = begins[document] + TOGETHER_TOKENS
                    fit = np.searchsorted(begins, most, side="right") - 1
                    end = max(document + 1, int(fit))
                    stream.seek(int(begins[document]) * self._type.itemsize)
                    content = stream.read(int(begins[end] - begins[document]) * self._type.itemsize)
                    starts = begins[document : end + 1] - begins[document]
                    yield np.frombuffer(content, self._type), starts
                    document = end

    def _open(self) -> tuple[np.dtype, _Index]:
        size = self.idx.stat().st_size
        with self.idx.open("rb") as stream:
            header = stream.read(HEADER.size)
        if not header.startswith(MAGIC):
            raise DataError(
                f"{self.idx}: begins with {header[:9]!r}, expected {MAGIC!r}; "
                "not the index of a Megatron dataset"
            )
        if len(header) < HEADER.size:
            raise DataError(f"{self.idx}: ends within its header; copy it again")
        _, version, code, sequences, boundaries = HEADER.unpack(header)
        if version != VERSION or code not in TYPES:
            raise DataError(
                f"{self.idx}: version {version} with type code {code}; expected version {VERSION} and "
                f"integers, one of the codes {', '.join(map(str, TYPES))}"
            )
        expected = HEADER.size + 12 * sequences + 8 * boundaries
        if size != expected or not boundaries:
            raise DataError(
                f"{self.idx}: has {size} bytes, its header says {expected}; it was truncated (copy it "
                "again), or holds images beside text, which shards do not"
            )
        content = np.memmap(self.idx, mode="r", offset=0)[HEADER.size :]
        lengths, pointers, documents = np.split(content, [4 * sequences, 12 * sequences])
        index = _Index(lengths.view("<i4"), pointers.view("<i8"), documents.view("<i8"))
        if index.documents[0] != 0 or index.documents[-1] != sequences:
            raise DataError(
                f"{self.idx}: its documents are not the sequences 0 to {sequences}; build it again"
            )
        return np.dtype(TYPES[code]), index

    def _begins(self, first: int, last: int) -> np.ndarray:
        """The tokens before each of the documents, and before the one after them; int64."""
        documents = np.asarray(self._index.documents[first : last + 1])
        begin, end = int(documents[0]), int(documents[-1])
        lengths = np.asarray(self._index.lengths[begin:end]).astype(np.int64)
        pointers = np.asarray(self._index.pointers[begin:end])
        offset = int(pointers[0]) // self._type.itemsize if len(pointers) else 0
        before = offset + np.append(0, np.cumsum(lengths))
        if (
            (np.diff(documents) < 0).any()
            or (lengths < 0).any()
            or (pointers != before[:-1] * self._type.itemsize).any()
        ):
            raise DataError(
                f"{self.idx}: documents {first} to {last - 1}: their sequences do not lie one after the "
                "other in the .bin; build it again"
            )
        return before[documents - begin]
