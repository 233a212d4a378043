"""What each rank is given: the rows of the order, whatever the workers, the world or the restarts."""

import functools
import pickle
import threading
import time
import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.errors import ConfigError, DataError
from data_prep.shards.assemble import Part, assemble
from data_prep.shards.reader import RowGroup, ShardSet
from data_prep.shards.schema import ShardFormat
from data_prep.shards.storage import LocalStorage
from data_prep.shards.writer import EncodedDocument, ShardWriter
from pretrain.ledger import BadRowGroup, Entry, PhaseEntry, SkipEntry
from pretrain.loader import StepBatch, StepDataset, Steps
from pretrain.order import Order, SourceRows
from pretrain.step_rows import READ_AHEAD, StepRows
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


@pytest.fixture(scope="session")
def unchanged(tmp_path_factory) -> list[ShardSet]:
    return _two_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture
def sets(tmp_path) -> list[ShardSet]:
    return _two_sets(tmp_path)


def _two_sets(folder: Path) -> list[ShardSet]:
    # Row groups of 4, 4, 2, 4, 4, 2 and ten of 4: epochs of 20 and of 40 sequences.
    masked = FORM.model_copy(update={"has_loss_mask": True})
    return [
        _build(folder / "books", "books", [10, 10], FORM),
        _build(folder / "dialogues", "dialogues", [16, 24], masked),
    ]


@functools.cache
def _contents(shards: ShardSet) -> list[list[dict]]:
    """The rows of every row group as another reader of Parquet sees them."""
    groups = []
    for path in sorted(shards.folder.glob("part-*.parquet")):
        file = pq.ParquetFile(path)
        groups += [file.read_row_group(g).to_pylist() for g in range(file.num_row_groups)]
    assert [len(group) for group in groups] == shards.row_groups.tolist()
    return groups


def _order(sets, ledger: Sequence[Entry] = ()) -> Order:
    rows = [SourceRows(one.manifest.source, one.row_groups) for one in sets]
    return Order(rows, [3, 1][: len(rows)], 5, BATCH, SHUFFLE, ledger)


def _dataset(
    sets, start=0, stop=30, rank=0, world=1, micro_batch=3, ledger=(), bad_row_groups="stop"
) -> StepDataset:
    order = _order(sets, ledger)
    return StepDataset(
        order, sets, rank, world, micro_batch, "document", start, stop, bad_row_groups
    )


def _rows(batch: StepBatch) -> list[tuple[list[int], ...]]:
    """Rows of a step in order, filler left out: tokens, labels and position ids of each."""
    columns = ("tokens", "labels", "position_ids")
    whole = [torch.cat([part[name] for part in batch.micro_batches]).tolist() for name in columns]
    return [row for row in zip(*whole, strict=True) if any(row[0])]


def _by_step(batches) -> dict[int, list[tuple[list[int], ...]]]:
    return {batch.step: _rows(batch) for batch in batches}


def _named(sets, step: int, ledger: Sequence[Entry] = ()) -> list[dict]:
    """The rows of a step as the order names them, from the files."""
    contents, rows = [_contents(one) for one in sets], _order(sets, ledger).batch(step)
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
    alone = list(Steps(_dataset(sets)))
    assert [batch.step for batch in alone] == list(range(30))
    together = list(Steps(_dataset(sets), workers))
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
        resumed = [batch for part in parts for batch in Steps(part, workers)]
        assert [batch.step for batch in resumed] == list(range(12))
        assert _by_step(resumed) == whole


def test_mixed_epochs_that_end_within_a_step_resume_the_same(sets):
    whole = _by_step(_dataset(sets))
    for start in range(30):
        assert _by_step(_dataset(sets, start, start + 1)) == {start: whole[start]}


@given(
    world=st.integers(1, 6),
    micro_batch=st.integers(1, 4),
    phases=st.lists(
        st.tuples(
            st.integers(0, 9),
            st.sampled_from([None, {"books": 1}, {"dialogues": 2}, {"books": 2, "dialogues": 5}]),
            st.sampled_from([6, 9, 16, 41]),
        ),
        max_size=3,
        unique_by=lambda phase: phase[0],
    ),
    kills=st.lists(st.integers(0, 12), max_size=3).map(sorted),
)
@settings(max_examples=30, deadline=None)
def test_all_ranks_together_compute_the_rows_of_the_order_wherever_the_run_was_killed(
    unchanged, world, micro_batch, phases, kills
):
    ledger = [PhaseEntry(*phase) for phase in sorted(phases, key=lambda phase: phase[0])]
    found: list[list[tuple[list[int], ...]]] = [[] for _ in range(12)]
    for rank in range(world):
        steps: list[int] = []
        state = {"step": 0}
        for kill in [*kills, 12]:
            dataset = _dataset(
                unchanged, 0, 12, rank=rank, world=world, micro_batch=micro_batch, ledger=ledger
            )
            reading = Steps(dataset)
            reading.load_state_dict(state)
            batches = iter(reading)
            while state["step"] < kill:
                batch = next(batches)
                state = reading.state_dict()
                steps.append(batch.step)
                found[batch.step] += _rows(batch)
        assert steps == list(range(12))
    for step, rows in enumerate(found):
        named = _named(unchanged, step, ledger)
        assert [row[0] for row in rows] == [row["tokens"] for row in named]


@given(
    batches=st.lists(st.tuples(st.integers(1, 8), st.integers(3, 50)), max_size=3),
    world=st.integers(1, 3),
)
@settings(max_examples=20, deadline=None)
def test_every_token_is_read_once_in_each_epoch_while_the_batch_grows_and_shrinks(
    unchanged, batches, world
):
    sets = unchanged[1:]
    ledger = [PhaseEntry(step, None, batch) for step, batch in sorted(dict(batches).items())]
    sequences = sum(_order(sets, ledger).global_batch_at(step) for step in range(10))
    read = Counter(
        tuple(row[0])
        for rank in range(world)
        for batch in _dataset(sets, 0, 10, rank=rank, world=world, ledger=ledger)
        for row in _rows(batch)
    )
    stored = [tuple(row["tokens"]) for group in _contents(sets[0]) for row in group]
    assert sum(read.values()) == sequences
    whole_epochs = sequences // len(stored)
    assert all(whole_epochs <= read[row] <= whole_epochs + 1 for row in stored)


def test_a_rank_without_rows_in_a_small_batch_computes_rows_that_train_nothing(sets):
    ledger = [PhaseEntry(2, None, 5)]
    ranks = [list(_dataset(sets, 0, 4, rank=rank, world=4, ledger=ledger)) for rank in range(4)]
    for parts in zip(*ranks, strict=True):
        shapes = {tuple(m["tokens"].shape for m in part.micro_batches) for part in parts}
        assert len(shapes) == 1
    assert [len(_rows(rank[3])) for rank in ranks] == [2, 2, 1, 0]
    assert (ranks[3][3].trained_tokens, ranks[3][3].tokens) == (0, 0)
    assert sum(ranks[3][3].sources.values()) == 5


def test_the_state_holds_for_any_workers_although_they_have_prepared_more(sets):
    whole = _by_step(Steps(_dataset(sets)))
    state: dict[str, int] = {"step": 0}
    found: dict[int, list] = {}
    for workers, given_steps in ((2, 1), (0, 4), (2, 7), (1, 9), (0, 9)):
        steps = Steps(_dataset(sets), workers, prefetch=4)
        steps.load_state_dict(state)
        for count, batch in enumerate(steps, 1):
            found[batch.step] = _rows(batch)
            state = steps.state_dict()
            assert state == {"step": batch.step + 1}
            if count == given_steps:
                break
    assert list(found) == list(range(30))
    assert found == whole


def test_steps_go_on_where_they_were_left_and_end_for_good(sets):
    steps = Steps(_dataset(sets, 3, 6))
    assert steps.state_dict() == {"step": 3}
    assert next(iter(steps)).step == 3
    assert [batch.step for batch in steps] == [4, 5]
    assert list(steps) == []
    steps.load_state_dict({"step": 6})
    assert list(steps) == []


@pytest.mark.parametrize("state", [{"step": -1}, {"step": 31}, {"step": 1.5}, {"epoch": 1}, {}])
def test_a_state_that_does_not_belong_is_refused(sets, state):
    with pytest.raises(ConfigError, match="expected 0 to 30, the steps of this run"):
        Steps(_dataset(sets)).load_state_dict(state)


# -- reading -----------------------------------------------------------------------------------


def test_a_rank_decodes_its_groups_about_once_and_lets_them_go(tmp_path):
    # Two ranks, blocks of 8 groups of 32 rows, 16 rows a step: each decodes its half of every block and
    # at the block's ends a few more.
    form = FORM.model_copy(update={"row_group": 32})
    shards = _Counting(_build(tmp_path / "large", "large", [2048, 2048], form).folder)
    order = Order([SourceRows("large", shards.row_groups)], [1], 1, 16, 8)
    for rank in range(2):
        shards.reads.clear()
        for _ in StepDataset(order, [shards], rank, 2, 8, "document", 0, 256):
            pass
        assert 64 <= sum(shards.reads.values()) <= 1.25 * 128 / 2
    assert shards.most_held <= 8 + READ_AHEAD + 1


class _Distant(LocalStorage):
    """A folder that answers late, as object storage does, and counts who waits."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.place = "distant://set"  # type: ignore[assignment]
        self.folder = folder
        self.reads = self.waiting = self.most_waiting = 0
        self._lock = threading.Lock()

    def address(self, name: str) -> Path:
        return self.folder / name

    def read(self, name: str, begin: int, end: int) -> bytes:
        with self._lock:
            self.reads += 1
            self.waiting += 1
            self.most_waiting = max(self.most_waiting, self.waiting)
        time.sleep(0.005)
        with self._lock:
            self.waiting -= 1
        return super().read(name, begin, end)


def test_distant_row_groups_are_read_together_ahead_of_their_step_and_not_without_bound(tmp_path):
    shards = _build(tmp_path / "far", "far", [1024], FORM)  # 256 row groups
    storage = _Distant(shards.folder)
    far = ShardSet(storage)
    far.read(0)  # which reads the end of the file, too
    order = Order([SourceRows("far", far.row_groups)], [1], 1, 16, 16)
    expected = list(StepRows(order, [shards], 0, 1, 16).read(range(32)))
    storage.reads = 0
    needed: set[tuple[int, int]] = set()
    for step, near in zip(StepRows(order, [far], 0, 1, 16).read(range(32)), expected, strict=True):
        rows = order.batch(step.step)
        needed |= set(zip(rows.block.tolist(), rows.group.tolist(), strict=True))
        assert len(needed) <= storage.reads <= len(needed) + READ_AHEAD
        assert np.array_equal(step.rows.tokens, near.rows.tokens)
    assert storage.most_waiting > 8
    assert storage.waiting == 0


def test_an_iteration_that_is_given_up_leaves_nothing_running(sets):
    batches = iter(_dataset(sets))
    next(batches)
    del batches
    assert not any(thread.name.startswith("read-ahead") for thread in threading.enumerate())


# -- row groups that cannot be read -------------------------------------------------------------


def _damage(shards: ShardSet, group: int) -> tuple[Path, int]:
    """Change a byte of the row group; gives its file and its number there."""
    path, in_file = shards.place(group)
    content = bytearray(Path(path).read_bytes())
    content[pq.read_metadata(path).row_group(in_file).column(0).data_page_offset + 40] ^= 1
    Path(path).write_bytes(content)
    return Path(path), in_file


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_row_group_ends_the_reading_with_one_line_at_its_step(sets, workers):
    path, in_file = _damage(sets[1], 7)
    due = next(step for step in range(30) if _needs(_order(sets), step, 1, 7))
    read: list[int] = []
    with pytest.raises(DataError) as caught:
        read.extend(batch.step for batch in Steps(_dataset(sets), workers))
    assert str(caught.value).startswith(f"{path}: row group {in_file}: ")
    assert "\n" not in str(caught.value)
    assert read == list(range(due))


def _needs(order: Order, step: int, source: int, group: int) -> bool:
    rows = order.batch(step)
    return bool(((rows.source == source) & (rows.group == group)).any())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_row_group_can_be_named_by_the_steps_that_need_it_and_trained_around(
    sets, workers
):
    whole = list(_dataset(sets))
    path, in_file = _damage(sets[1], 7)
    for batch in Steps(_dataset(sets, bad_row_groups="skip"), workers):
        order = _order(sets).batch(batch.step)
        lost = (order.source == 1) & (order.group == 7)
        assert len(batch.bad) == lost.any()
        for bad in batch.bad:
            assert (bad.step, bad.source, bad.group) == (batch.step, "dialogues", 7)
            assert bad.reason.startswith(f"{path}: row group {in_file}: ")
        before = _rows(whole[batch.step])
        assert _rows(batch) == [row for row, gone in zip(before, lost, strict=True) if not gone]
        labels = torch.cat([part["labels"] for part in batch.micro_batches])
        assert (labels[: len(lost)][torch.from_numpy(lost)] == -100).all()
        assert batch.sources == whole[batch.step].sources


class _TooLong(ShardSet):
    """A shard set whose row group 7 lists documents longer than their rows."""

    def read(self, group: int) -> RowGroup:
        found = super().read(group)
        return replace(found, lengths=found.lengths + 1) if group == 7 else found


def test_documents_longer_than_their_row_make_a_row_group_unreadable(sets):
    sets[1] = _TooLong(sets[1].folder)
    path, in_file = sets[1].place(7)
    expected = (
        f"{path}: row group {in_file}: a row of 12 tokens lists documents of 1[3-9] tokens in all"
    )
    with pytest.raises(DataError, match=expected):
        list(_dataset(sets))
    bad = [one for batch in _dataset(sets, bad_row_groups="skip") for one in batch.bad]
    assert {one.group for one in bad} == {7}


def test_rows_that_the_ledger_declares_bad_are_not_read_and_not_counted(sets):
    counting = [_Counting(one.folder) for one in sets]
    ledger = [SkipEntry(4, 2, "loss"), BadRowGroup(6, "dialogues", 7, "checksum")]
    for batch in _dataset(counting, 6, 30, ledger=ledger):
        rows = _order(sets, ledger).batch(batch.step)
        left = [
            row
            for row, source, group in zip(
                _named(sets, batch.step, ledger), rows.source, rows.group, strict=True
            )
            if (source, group) != (1, 7)
        ]
        assert [row[0] for row in _rows(batch)] == [row["tokens"] for row in left]
        assert batch.tokens == sum(piece["length"] for row in left for piece in row["documents"])
        masked = sum("loss_mask" in row for row in left)
        assert batch.sources == {"books": len(left) - masked, "dialogues": masked}
        assert batch.bad == []
    assert 7 not in counting[1].reads
    assert counting[1].reads


def test_reading_writes_nothing(sets):
    def state():
        files = [path for one in sets for path in one.folder.rglob("*")]
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}

    before = state()
    list(Steps(_dataset(sets), 2))
    assert state() == before


def test_a_dataset_sent_to_another_process_gives_the_same_rows(sets):
    dataset = _dataset(sets)
    next(iter(dataset))
    assert _by_step(pickle.loads(pickle.dumps(dataset))) == _by_step(dataset)


def test_a_rank_beyond_the_world_is_refused(sets):
    with pytest.raises(ConfigError, match="rank 2 does not exist in a world of 2 ranks"):
        _dataset(sets, rank=2, world=2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
def test_batches_can_be_given_in_page_locked_memory(sets):
    for batch in Steps(_dataset(sets, stop=3), 2, pin_memory=True):
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
