"""Two small shard sets, one with a loss mask, and what a loader must give of them."""

import functools
import weakref
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from data_prep.shards.assemble import Part, assemble
from data_prep.shards.reader import RowGroup, ShardSet
from data_prep.shards.schema import ShardFormat
from data_prep.shards.writer import EncodedDocument, ShardWriter
from pretrain.data.loader import StepBatch, StepDataset
from pretrain.data.step_rows import StepRows
from pretrain.ledger import Entry
from pretrain.order.order import Order, SourceRows

LENGTH, BATCH, SHUFFLE = 12, 8, 3
FORM = ShardFormat(
    sequence_length=LENGTH, row_group=4, policy="concat", vocabulary_size=60_000,
    tokenizer_fingerprint="f00d", begin_token=False, begin_id=None, end_id=1, pad_id=0,
)  # fmt: skip


def build_set(folder: Path, name: str, files: list[int], form: ShardFormat) -> ShardSet:
    """A shard set with these many rows in its files: random documents, and padding in their last rows."""
    random = np.random.default_rng(len(name))
    (folder / "tokenizer-source").mkdir(parents=True)
    (folder / "set").mkdir()
    parts = []
    for number, rows in enumerate(files):
        file, listed = folder / f"{number}.parquet", folder / f"{number}.documents.parquet"
        left = rows * LENGTH - int(random.integers(0, LENGTH - 1))
        with ShardWriter(file, listed, form, window=4096) as shard:
            while left:
                size = min(left, int(random.integers(1, 2 * LENGTH)))
                shard.add(
                    EncodedDocument(
                        id=f"{name}:{number}:{left}",
                        tokens=random.integers(2, 60_000, size),
                        source=name,
                        bytes=size,
                        loss_mask=random.random(size) < 0.5 if form.has_loss_mask else None,
                    )
                )
                left -= size
        parts.append(Part(f"part-{number}", file, listed, shard.counts.as_json()))
    assemble(
        folder / "set", parts, form, source=name, split="train",
        tokenizer=folder / "tokenizer-source", settings={}, inputs={},
    )  # fmt: skip
    return ShardSet(folder / "set")


class Counting(ShardSet):
    """A shard set that counts what is read from it, and what is held of that."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.reads: Counter[int] = Counter()
        self.most_held = 0
        self._held: list[weakref.ref] = []

    def read(self, group: int) -> RowGroup:
        self.reads[group] += 1
        found = super().read(group)
        self._held = [one for one in self._held if one() is not None] + [weakref.ref(found.tokens)]
        self.most_held = max(self.most_held, len(self._held))
        return found


def two_sets(folder: Path) -> list[ShardSet]:
    # Row groups of 4, 4, 2, 4, 4, 2 and ten of 4: epochs of 20 and of 40 sequences.
    masked = FORM.model_copy(update={"has_loss_mask": True})
    return [
        build_set(folder / "books", "books", [10, 10], FORM),
        build_set(folder / "dialogues", "dialogues", [16, 24], masked),
    ]


@functools.cache
def contents_of(shards: ShardSet) -> list[list[dict]]:
    """The rows of every row group as another reader of Parquet sees them."""
    groups = []
    for path in sorted(shards.folder.glob("part-*.parquet")):
        file = pq.ParquetFile(path)
        groups += [file.read_row_group(g).to_pylist() for g in range(file.num_row_groups)]
    assert [len(group) for group in groups] == shards.row_groups.tolist()
    return groups


def order_of(sets, ledger: Sequence[Entry] = ()) -> Order:
    rows = [SourceRows(one.manifest.source, one.row_groups) for one in sets]
    return Order(rows, [3, 1][: len(rows)], 5, BATCH, SHUFFLE, ledger)


def dataset_of(
    sets, start=0, stop=30, rank=0, world=1, micro_batch=3, ledger=(), bad_row_groups="stop"
) -> StepDataset:
    rows = StepRows(order_of(sets, ledger), sets, rank, world, micro_batch, bad_row_groups)
    return StepDataset(rows, "document", start, stop)


def rows_of(batch: StepBatch) -> list[tuple[list[int], ...]]:
    """Rows of a step in order, filler left out: tokens, labels and position ids of each."""
    columns = ("tokens", "labels", "position_ids")
    whole = [torch.cat([part[name] for part in batch.micro_batches]).tolist() for name in columns]
    return [row for row in zip(*whole, strict=True) if any(row[0])]


def by_step(batches) -> dict[int, list[tuple[list[int], ...]]]:
    return {batch.step: rows_of(batch) for batch in batches}


def named_rows(sets, step: int, ledger: Sequence[Entry] = ()) -> list[dict]:
    """The rows of a step as the order names them, from the files."""
    contents, rows = [contents_of(one) for one in sets], order_of(sets, ledger).batch(step)
    return [
        contents[source][group][row]
        for source, group, row in zip(
            rows.source.tolist(), rows.group.tolist(), rows.row.tolist(), strict=True
        )
    ]
