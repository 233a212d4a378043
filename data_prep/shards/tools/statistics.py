"""What is in a shard set, from its manifest, its document list and the ends of its files: no row is read.

Memory: some documents, and a number for every length, journal and year there is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.shards.counts import ShardCounts
from data_prep.shards.manifest import DOCUMENTS_FILE, Manifest
from data_prep.shards.parquet_file import Footer
from data_prep.shards.reader import ShardSet
from data_prep.shards.storage import RESTORE, Place, local_folder, storage_of

QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
GROUPS = ("licence", "year", "journal")
UNKNOWN = "unknown"
_BATCH = 1 << 16  # documents at once, about 10 MB


@dataclass(frozen=True)
class ColumnBytes:
    """A column of the shards: bytes on disk, and after decompression."""

    disk: int
    raw: int


@dataclass(frozen=True)
class Statistics:
    """What is in a set. `fill` is the share of places that hold tokens, `cut_share` that of the documents
    that do not stand whole in one row; `lengths` are tokens of documents, by nearest rank; `tokens_by` has
    the documents' tokens by licence, year and journal, most first.
    """

    source: str
    split: str
    policy: str
    epochs: int
    sequence_length: int
    documents: int
    rows: int
    tokens: int
    trained_tokens: int
    padding: int
    fill: float
    cuts: int
    cut_share: float
    documents_per_row: float
    lengths: dict[str, int]
    tokens_by: dict[str, dict[str, int]]
    files: int
    row_groups: int
    rows_per_row_group: tuple[int, int]  # least, most
    disk_bytes: int  # of all files of the set
    text_bytes: int  # of the documents, in UTF-8
    columns: dict[str, ColumnBytes]

    @property
    def disk_bytes_per_token(self) -> float:
        return self.disk_bytes / self.tokens

    @property
    def compression(self) -> float:
        """Bytes of the decompressed columns over bytes on disk."""
        disk = sum(column.disk for column in self.columns.values())
        return sum(column.raw for column in self.columns.values()) / disk

    def as_json(self) -> dict[str, object]:
        ratios = {
            "disk_bytes_per_token": self.disk_bytes_per_token,
            "compression": self.compression,
        }
        return asdict(self) | ratios


def statistics(place: Place) -> Statistics:
    """Raises DataError where `place` is no shard set, or a file of it is missing or damaged."""
    folder = local_folder(storage_of(place))
    shards = ShardSet(folder)
    manifest = shards.manifest
    lengths, tokens_by, listed = _documents(shards.checked(DOCUMENTS_FILE))
    columns, row_groups = _files(folder, manifest)
    counts = ShardCounts.of(manifest.counts)
    return Statistics(
        source=manifest.source,
        split=manifest.split,
        policy=manifest.policy,
        epochs=manifest.epochs,
        sequence_length=manifest.sequence_length,
        documents=counts.documents,
        rows=counts.rows,
        tokens=counts.tokens,
        trained_tokens=counts.trained_tokens,
        padding=counts.padding,
        fill=counts.fill,
        cuts=counts.cuts,
        cut_share=counts.cut_share,
        documents_per_row=listed / counts.rows,
        lengths=_quantiles(lengths),
        tokens_by={name: dict(counter.most_common()) for name, counter in tokens_by.items()},
        files=len(manifest.files),
        row_groups=len(row_groups),
        rows_per_row_group=(min(row_groups), max(row_groups)),
        disk_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        text_bytes=counts.bytes,
        columns=columns,
    )


def _documents(path: Path) -> tuple[Counter[int], dict[str, Counter[str]], int]:
    """Documents by length, tokens by each of GROUPS, and how many rows documents are in, one by one."""
    lengths: Counter[int] = Counter()
    tokens_by: dict[str, Counter[str]] = {name: Counter() for name in GROUPS}
    listed = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH, columns=["tokens", "rows", *GROUPS]):
            tokens = batch["tokens"].to_numpy()
            found, numbers = np.unique(tokens, return_counts=True)
            lengths.update(dict(zip(found.tolist(), numbers.tolist(), strict=True)))
            listed += pc.sum(pc.list_value_length(batch["rows"])).as_py()
            for name, counter in tokens_by.items():
                counter.update(_tokens_by(batch, name))
    return lengths, tokens_by, listed


def _tokens_by(batch: pa.RecordBatch, name: str) -> dict[str, int]:
    table = pa.table({"key": batch[name], "tokens": batch["tokens"]})
    sums = table.group_by("key").aggregate([("tokens", "sum")])
    return {
        UNKNOWN if key is None else str(key): tokens
        for key, tokens in zip(sums["key"].to_pylist(), sums["tokens_sum"].to_pylist(), strict=True)
    }


def _quantiles(lengths: Counter[int]) -> dict[str, int]:
    """The shortest length that at least so many of the documents do not exceed, and the longest."""
    ordered = sorted(lengths)
    below = np.array(list(accumulate(lengths[length] for length in ordered)))
    ranks = np.ceil(np.array(QUANTILES) * below[-1])
    found = [ordered[place] for place in np.searchsorted(below, ranks).tolist()]
    names = [f"{quantile:.0%}" for quantile in QUANTILES]
    return dict(zip(names, found, strict=True)) | {"longest": ordered[-1]}


def _files(folder: Path, manifest: Manifest) -> tuple[dict[str, ColumnBytes], list[int]]:
    """Bytes of each column of the shards, and the rows of every row group."""
    disk: Counter[str] = Counter()
    raw: Counter[str] = Counter()
    rows = []
    for file in manifest.files:
        metadata = Footer(folder / file.name, RESTORE).metadata()
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            rows.append(group.num_rows)
            for index in range(group.num_columns):
                column = group.column(index)
                name = column.path_in_schema.partition(".")[0]
                disk[name] += column.total_compressed_size
                raw[name] += column.total_uncompressed_size
    return {name: ColumnBytes(disk[name], raw[name]) for name in disk}, rows
