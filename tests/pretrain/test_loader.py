"""What each rank is given: the rows of the order, whatever the workers, the world or the restarts."""

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from data_prep.errors import ConfigError, DataError
from data_prep.shards.assemble import Part, assemble
from data_prep.shards.reader import RowGroup, ShardSet
from data_prep.shards.schema import ShardFormat
from data_prep.shards.writer import EncodedDocument, ShardWriter
from pretrain.loader import StepBatch, StepDataset, read_steps
from pretrain.order import Order, SourceRows
from pretrain.validation_rows import validation_batches

LENGTH, BATCH, SHUFFLE = 12, 8, 3
FORM = ShardFormat(
    sequence_length=LENGTH, row_group=4, policy="concat", vocabulary_size=60_000,
    tokenizer_fingerprint="f00d", begin_token=False, begin_id=None, end_id=1, pad_id=0,
)  # fmt: skip


def _build(folder: Path, name: str, files: list[int], form: ShardFormat) -> ShardSet:
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


class _Counting(ShardSet):
    """A shard set that counts what is read from it."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.reads: Counter[int] = Counter()

    def read(self, group: int) -> RowGroup:
        self.reads[group] += 1
        return super().read(group)


@pytest.fixture
def sets(tmp_path) -> list[ShardSet]:
    # Row groups of 4, 4, 2, 4, 4, 2 and ten of 4: epochs of 20 and of 40 sequences.
    masked = FORM.model_copy(update={"has_loss_mask": True})
    return [
        _build(tmp_path / "books", "books", [10, 10], FORM),
        _build(tmp_path / "dialogues", "dialogues", [16, 24], masked),
    ]


def _contents(shards: ShardSet) -> list[list[dict]]:
    """The rows of every row group as another reader of Parquet sees them."""
    groups = []
    for path in sorted(shards.folder.glob("part-*.parquet")):
        file = pq.ParquetFile(path)
        groups += [file.read_row_group(g).to_pylist() for g in range(file.num_row_groups)]
    assert [len(group) for group in groups] == shards.row_groups.tolist()
    return groups


def _order(sets) -> Order:
    rows = [SourceRows(one.manifest.source, one.row_groups) for one in sets]
    return Order(rows, [3, 1][: len(rows)], 5, BATCH, SHUFFLE)


def _dataset(sets, start=0, stop=30, rank=0, world=1, micro_batch=3) -> StepDataset:
    return StepDataset(_order(sets), sets, rank, world, micro_batch, "document", start, stop)


def _rows(batch: StepBatch) -> list[tuple[list[int], ...]]:
    """Rows of a step in order, filler left out: tokens, labels and position ids of each."""
    columns = ("tokens", "labels", "position_ids")
    whole = [torch.cat([part[name] for part in batch.micro_batches]).tolist() for name in columns]
    return [row for row in zip(*whole, strict=True) if any(row[0])]


def _by_step(batches) -> dict[int, list[tuple[list[int], ...]]]:
    return {batch.step: _rows(batch) for batch in batches}


def _named(sets, step: int) -> list[dict]:
    """The rows of a step as the order names them, from the files."""
    contents, rows = [_contents(one) for one in sets], _order(sets).batch(step)
    return [
        contents[source][group][row]
        for source, group, row in zip(
            rows.source.tolist(), rows.group.tolist(), rows.row.tolist(), strict=True
        )
    ]


def test_a_step_holds_the_rows_that_the_order_names_in_its_order(sets):
    for batch in _dataset(sets, stop=12):
        named = _named(sets, batch.step)
        assert [row[0] for row in _rows(batch)] == [row["tokens"] for row in named]
        masked = sum("loss_mask" in row for row in named)
        assert batch.sources == {"books": BATCH - masked, "dialogues": masked}


def test_counts_are_those_of_the_rows(sets):
    for batch in _dataset(sets, stop=12):
        trained = tokens = 0
        for row in _named(sets, batch.step):
            mask, place = row.get("loss_mask", [True] * LENGTH), 0
            for piece in row["documents"]:
                stop = place + piece["length"]
                # nobody trains on the first token of a piece
                trained += sum(mask[place + 1 : stop])
                tokens += piece["length"]
                place = stop
        assert (batch.tokens, batch.trained_tokens) == (tokens, trained)


@pytest.mark.parametrize("world", [2, 3, 4, 5, 8])
def test_every_world_size_computes_the_same_rows_in_equal_micro_batches(sets, world):
    whole = _by_step(_dataset(sets))
    ranks = [list(_dataset(sets, rank=rank, world=world)) for rank in range(world)]
    for parts in zip(*ranks, strict=True):
        assert [row for part in parts for row in _rows(part)] == whole[parts[0].step]
        shapes = {tuple(m["tokens"].shape for m in part.micro_batches) for part in parts}
        assert len(shapes) == 1
        assert len({tuple(part.sources.items()) for part in parts}) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(sets, workers):
    alone = list(read_steps(_dataset(sets), 0))
    assert [batch.step for batch in alone] == list(range(30))
    together = list(read_steps(_dataset(sets), workers))
    assert [batch.step for batch in together] == list(range(30))
    assert _by_step(together) == _by_step(alone)
    assert [(b.trained_tokens, b.tokens, b.sources) for b in together] == [
        (b.trained_tokens, b.tokens, b.sources) for b in alone
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_stopped_twice_anywhere_goes_on_with_the_same_rows(sets, workers):
    # One source of 40 sequences, 8 a step: an epoch ends with step 4, the next with step 9.
    sets = sets[1:]
    whole = _by_step(_dataset(sets, stop=12))
    assert _order(sets).batch(4).epoch.tolist() == [0] * 8
    assert _order(sets).batch(5).epoch.tolist() == [1] * 8
    for stop in (0, 1, 3, 4, 5, 6):
        second = stop + 3
        parts = [_dataset(sets, *steps) for steps in ((0, stop), (stop, second), (second, 12))]
        resumed = [batch for part in parts for batch in read_steps(part, workers)]
        assert [batch.step for batch in resumed] == list(range(12))
        assert _by_step(resumed) == whole


def test_mixed_epochs_that_end_within_a_step_resume_the_same(sets):
    whole = _by_step(_dataset(sets))
    for start in range(30):
        assert _by_step(_dataset(sets, start, start + 1)) == {start: whole[start]}


def test_a_rank_decodes_its_groups_about_once(tmp_path):
    # Two ranks, blocks of 8 groups of 32 rows, 16 rows a step: each decodes its half of every block and
    # at the block's ends a few more.
    form = FORM.model_copy(update={"row_group": 32})
    shards = _Counting(_build(tmp_path / "large", "large", [512, 512], form).folder)
    order = Order([SourceRows("large", shards.row_groups)], [1], 1, 16, 8)
    for rank in range(2):
        dataset = StepDataset(order, [shards], rank, 2, 8, "document", 0, 64)
        shards.reads.clear()
        for _ in dataset:
            pass
        assert dataset.held_groups[0] <= 8
        assert 16 <= sum(shards.reads.values()) <= 1.25 * 32 / 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_row_group_ends_the_reading_with_one_line_at_its_step(sets, workers):
    path, in_file = sets[1].place(7)
    content = bytearray(path.read_bytes())
    content[pq.read_metadata(path).row_group(in_file).column(0).data_page_offset + 40] ^= 1
    path.write_bytes(content)
    due = next(step for step in range(30) if _needs(_order(sets), step, 1, 7))
    read: list[int] = []
    with pytest.raises(DataError) as caught:
        read.extend(batch.step for batch in read_steps(_dataset(sets), workers))
    assert str(caught.value).startswith(f"{path}: row group {in_file}: ")
    assert "\n" not in str(caught.value)
    assert read == list(range(due))


def _needs(order: Order, step: int, source: int, group: int) -> bool:
    rows = order.batch(step)
    return bool(((rows.source == source) & (rows.group == group)).any())


def test_reading_writes_nothing(sets):
    def state():
        files = [path for one in sets for path in one.folder.rglob("*")]
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}

    before = state()
    list(read_steps(_dataset(sets), 2))
    assert state() == before


def test_a_dataset_sent_to_another_process_gives_the_same_rows(sets):
    dataset = _dataset(sets)
    next(iter(dataset))
    assert _by_step(pickle.loads(pickle.dumps(dataset))) == _by_step(dataset)


def test_what_does_not_fit_together_is_refused(sets):
    order = _order(sets)
    with pytest.raises(ConfigError, match="1 shard sets for an order of 2 sources"):
        StepDataset(order, sets[:1], 0, 1, 1, "document", 0, 1)
    with pytest.raises(ConfigError, match="rank 2 does not exist"):
        StepDataset(order, sets, 2, 2, 1, "document", 0, 1)
    with pytest.raises(ConfigError, match="other row groups"):
        StepDataset(order, sets[::-1], 0, 1, 1, "document", 0, 1)
    other = sets[1].manifest.model_copy(update={"tokenizer_fingerprint": "beef"})
    sets[1].manifest = other
    with pytest.raises(ConfigError, match="tokenizer_fingerprint 'beef', 'books' has 'f00d'"):
        StepDataset(order, sets, 0, 1, 1, "document", 0, 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
def test_batches_can_be_given_in_page_locked_memory(sets):
    for batch in read_steps(_dataset(sets, stop=3), 2, pin_memory=True):
        assert all(tensor.is_pinned() for part in batch.micro_batches for tensor in part.values())


# -- validation --------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 1, 7, 19, 20, 500])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_validation_gives_each_row_to_one_rank_in_equally_many_micro_batches(sets, world, limit):
    shards = sets[0]
    expected = [row["tokens"] for group in _contents(shards) for row in group]
    ranks = [
        list(validation_batches(shards, rank, world, 3, "document", limit)) for rank in range(world)
    ]
    rows = [row for rank in ranks for part in rank for row in part["tokens"].tolist() if any(row)]
    assert rows == expected[:limit]
    assert len({len(rank) for rank in ranks}) == 1
    assert all(part["tokens"].shape == (3, LENGTH) for rank in ranks for part in rank)


def test_validation_decodes_every_group_once(sets):
    shards = _Counting(sets[0].folder)
    for _ in validation_batches(shards, 0, 1, 3, "document"):
        pass
    assert shards.reads == Counter(range(6))


def test_validation_refuses_impossible_sizes(sets):
    for sizes in ({"micro_batch": 0}, {"micro_batch": 1, "limit": 0}):
        with pytest.raises(ConfigError, match="expected at least 1"):
            next(validation_batches(sets[0], 0, 1, attention="document", **sizes))
