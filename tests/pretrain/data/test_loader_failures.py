"""What is read, held and let go, and what cannot be read."""

import pickle
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from data_prep.errors import ConfigError, DataError
from data_prep.shards.reader import RowGroup, ShardSet
from data_prep.shards.storage import LocalStorage
from pretrain.data.loader import StepDataset, Steps
from pretrain.data.step_rows import READ_AHEAD, StepRows
from pretrain.ledger import BadRowGroup, SkipEntry
from pretrain.order.order import Order, SourceRows
from tests import tiny
from tests.pretrain.data.loading import (
    FORM,
    Counting,
    build_set,
    by_step,
    dataset_of,
    named_rows,
    order_of,
    rows_of,
    two_sets,
)


@pytest.fixture
def sets(tmp_path) -> list[ShardSet]:
    return two_sets(tmp_path)


def test_a_rank_decodes_its_groups_about_once_and_lets_them_go(tmp_path):
    # Two ranks, blocks of 8 groups of 32 rows, 16 rows a step: each decodes its half of every block and
    # at the block's ends a few more.
    form = FORM.model_copy(update={"row_group": 32})
    shards = Counting(build_set(tmp_path / "large", "large", [2048, 2048], form).folder)
    order = Order([SourceRows("large", shards.row_groups)], [1], 1, 16, 8)
    for rank in range(2):
        shards.reads.clear()
        for _ in StepDataset(StepRows(order, [shards], rank, 2, 8), "document", 0, 256):
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
    shards = build_set(tmp_path / "far", "far", [1024], FORM)  # 256 row groups
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
    batches = iter(dataset_of(sets))
    next(batches)
    del batches
    assert not any(thread.name.startswith("read-ahead") for thread in threading.enumerate())


SIGNALLED = """
import os, signal, sys
from data_prep.shards.reader import ShardSet
from pretrain.data.loader import Steps
from pretrain.interruption import Interruption, ignore_in_worker
from tests.pretrain.data.loading import dataset_of

if __name__ == "__main__":
    interruption = Interruption()
    interruption.install()
    dataset = dataset_of([ShardSet(place) for place in sys.argv[1:]], stop=20)
    batches = iter(Steps(dataset, 1, worker_init_fn=ignore_in_worker))
    next(batches)
    os.killpg(0, signal.SIGTERM)
    print(len(list(batches)), interruption.reason)
"""


def test_a_signal_to_the_whole_process_group_leaves_the_rank_its_workers(sets, tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(SIGNALLED)
    rank = subprocess.run(
        [sys.executable, str(script), *(str(one.folder) for one in sets)],
        cwd=tiny.ROOT, env=tiny.ENVIRONMENT | {"PYTHONPATH": str(tiny.ROOT)}, timeout=120,
        capture_output=True, text=True, start_new_session=True,
    )  # fmt: skip
    assert rank.stdout == "19 SIGTERM\n", rank.stderr[-2000:]


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
    due = next(step for step in range(30) if _needs(order_of(sets), step, 1, 7))
    read: list[int] = []
    with pytest.raises(DataError) as caught:
        read.extend(batch.step for batch in Steps(dataset_of(sets), workers))
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
    whole = list(dataset_of(sets))
    path, in_file = _damage(sets[1], 7)
    for batch in Steps(dataset_of(sets, bad_row_groups="skip"), workers):
        order = order_of(sets).batch(batch.step)
        lost = (order.source == 1) & (order.group == 7)
        assert len(batch.bad) == lost.any()
        for bad in batch.bad:
            assert (bad.step, bad.source, bad.group) == (batch.step, "dialogues", 7)
            assert bad.reason.startswith(f"{path}: row group {in_file}: ")
        before = rows_of(whole[batch.step])
        assert rows_of(batch) == [row for row, gone in zip(before, lost, strict=True) if not gone]
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
        list(dataset_of(sets))
    bad = [one for batch in dataset_of(sets, bad_row_groups="skip") for one in batch.bad]
    assert {one.group for one in bad} == {7}


def test_rows_that_the_ledger_declares_bad_are_not_read_and_not_counted(sets):
    counting = [Counting(one.folder) for one in sets]
    ledger = [SkipEntry(4, 2, "loss"), BadRowGroup(6, "dialogues", 7, "checksum")]
    for batch in dataset_of(counting, 6, 30, ledger=ledger):
        rows = order_of(sets, ledger).batch(batch.step)
        left = [
            row
            for row, source, group in zip(
                named_rows(sets, batch.step, ledger), rows.source, rows.group, strict=True
            )
            if (source, group) != (1, 7)
        ]
        assert [row[0] for row in rows_of(batch)] == [row["tokens"] for row in left]
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
    list(Steps(dataset_of(sets), 2))
    assert state() == before


def test_a_dataset_sent_to_another_process_gives_the_same_rows(sets):
    dataset = dataset_of(sets)
    next(iter(dataset))
    assert by_step(pickle.loads(pickle.dumps(dataset))) == by_step(dataset)


def test_a_rank_beyond_the_world_is_refused(sets):
    with pytest.raises(ConfigError, match="rank 2 does not exist in a world of 2 ranks"):
        dataset_of(sets, rank=2, world=2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
def test_batches_can_be_given_in_page_locked_memory(sets):
    for batch in Steps(dataset_of(sets, stop=3), 2, pin_memory=True):
        assert all(tensor.is_pinned() for part in batch.micro_batches for tensor in part.values())


# -- validation --------------------------------------------------------------------------------
