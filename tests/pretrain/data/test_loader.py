"""What each rank is given: the rows of the order, whatever the workers, the world or the restarts."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.errors import ConfigError
from data_prep.shards.reader import ShardSet
from pretrain.data.loader import Steps
from pretrain.ledger import PhaseEntry
from tests.pretrain.data.loading import (
    BATCH,
    LENGTH,
    by_step,
    contents_of,
    dataset_of,
    named_rows,
    order_of,
    rows_of,
    two_sets,
)


@pytest.fixture(scope="session")
def unchanged(tmp_path_factory) -> list[ShardSet]:
    return two_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture
def sets(tmp_path) -> list[ShardSet]:
    return two_sets(tmp_path)


def test_a_step_holds_the_rows_that_the_order_names_in_its_order(sets):
    for batch in dataset_of(sets, stop=12):
        named = named_rows(sets, batch.step)
        assert [row[0] for row in rows_of(batch)] == [row["tokens"] for row in named]
        masked = sum("loss_mask" in row for row in named)
        assert batch.sources == {"books": BATCH - masked, "dialogues": masked}


def test_counts_are_those_of_the_rows(sets):
    for batch in dataset_of(sets, stop=12):
        trained = tokens = 0
        for row in named_rows(sets, batch.step):
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
    whole = by_step(dataset_of(sets))
    ranks = [list(dataset_of(sets, rank=rank, world=world)) for rank in range(world)]
    for parts in zip(*ranks, strict=True):
        assert [row for part in parts for row in rows_of(part)] == whole[parts[0].step]
        shapes = {tuple(m["tokens"].shape for m in part.micro_batches) for part in parts}
        assert len(shapes) == 1
        assert len({tuple(part.sources.items()) for part in parts}) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(sets, workers):
    alone = list(Steps(dataset_of(sets)))
    assert [batch.step for batch in alone] == list(range(30))
    together = list(Steps(dataset_of(sets), workers))
    assert [batch.step for batch in together] == list(range(30))
    assert by_step(together) == by_step(alone)
    assert [(b.trained_tokens, b.tokens, b.sources) for b in together] == [
        (b.trained_tokens, b.tokens, b.sources) for b in alone
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_stopped_twice_anywhere_goes_on_with_the_same_rows(sets, workers):
    # One source of 40 sequences, 8 a step: an epoch ends with step 4, the next with step 9.
    sets = sets[1:]
    whole = by_step(dataset_of(sets, stop=12))
    assert order_of(sets).batch(4).epoch.tolist() == [0] * 8
    assert order_of(sets).batch(5).epoch.tolist() == [1] * 8
    for stop in (0, 1, 3, 4, 5, 6):
        second = stop + 3
        parts = [dataset_of(sets, *steps) for steps in ((0, stop), (stop, second), (second, 12))]
        resumed = [batch for part in parts for batch in Steps(part, workers)]
        assert [batch.step for batch in resumed] == list(range(12))
        assert by_step(resumed) == whole


def test_mixed_epochs_that_end_within_a_step_resume_the_same(sets):
    whole = by_step(dataset_of(sets))
    for start in range(30):
        assert by_step(dataset_of(sets, start, start + 1)) == {start: whole[start]}


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
            dataset = dataset_of(
                unchanged, 0, 12, rank=rank, world=world, micro_batch=micro_batch, ledger=ledger
            )
            reading = Steps(dataset)
            reading.load_state_dict(state)
            batches = iter(reading)
            while state["step"] < kill:
                batch = next(batches)
                state = reading.state_dict()
                steps.append(batch.step)
                found[batch.step] += rows_of(batch)
        assert steps == list(range(12))
    for step, rows in enumerate(found):
        named = named_rows(unchanged, step, ledger)
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
    sequences = sum(order_of(sets, ledger).global_batch_at(step) for step in range(10))
    read = Counter(
        tuple(row[0])
        for rank in range(world)
        for batch in dataset_of(sets, 0, 10, rank=rank, world=world, ledger=ledger)
        for row in rows_of(batch)
    )
    stored = [tuple(row["tokens"]) for group in contents_of(sets[0]) for row in group]
    assert sum(read.values()) == sequences
    whole_epochs = sequences // len(stored)
    assert all(whole_epochs <= read[row] <= whole_epochs + 1 for row in stored)


def test_a_rank_without_rows_in_a_small_batch_computes_rows_that_train_nothing(sets):
    ledger = [PhaseEntry(2, None, 5)]
    ranks = [list(dataset_of(sets, 0, 4, rank=rank, world=4, ledger=ledger)) for rank in range(4)]
    for parts in zip(*ranks, strict=True):
        shapes = {tuple(m["tokens"].shape for m in part.micro_batches) for part in parts}
        assert len(shapes) == 1
    assert [len(rows_of(rank[3])) for rank in ranks] == [2, 2, 1, 0]
    assert (ranks[3][3].trained_tokens, ranks[3][3].tokens) == (0, 0)
    assert sum(ranks[3][3].sources.values()) == 5


def test_the_state_holds_for_any_workers_although_they_have_prepared_more(sets):
    whole = by_step(Steps(dataset_of(sets)))
    state: dict[str, int] = {"step": 0}
    found: dict[int, list] = {}
    for workers, given_steps in ((2, 1), (0, 4), (2, 7), (1, 9), (0, 9)):
        steps = Steps(dataset_of(sets), workers, prefetch=4)
        steps.load_state_dict(state)
        for count, batch in enumerate(steps, 1):
            found[batch.step] = rows_of(batch)
            state = steps.state_dict()
            assert state == {"step": batch.step + 1}
            if count == given_steps:
                break
    assert list(found) == list(range(30))
    assert found == whole


def test_steps_go_on_where_they_were_left_and_end_for_good(sets):
    steps = Steps(dataset_of(sets, 3, 6))
    assert steps.state_dict() == {"step": 3}
    assert next(iter(steps)).step == 3
    assert [batch.step for batch in steps] == [4, 5]
    assert list(steps) == []
    steps.load_state_dict({"step": 6})
    assert list(steps) == []


@pytest.mark.parametrize("state", [{"step": -1}, {"step": 31}, {"step": 1.5}, {"epoch": 1}, {}])
def test_a_state_that_does_not_belong_is_refused(sets, state):
    with pytest.raises(ConfigError, match="expected 0 to 30, the steps of this run"):
        Steps(dataset_of(sets)).load_state_dict(state)


# -- reading -----------------------------------------------------------------------------------
