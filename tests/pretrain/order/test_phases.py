"""The ledger: phases, batch ramps, skips and bad row groups, held against a run written out by hand.

The reference below keeps, for every sequence of a run, a list of which source it comes from, and gives each
source's rows in the order that an order without a ledger shows.
"""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.errors import ConfigError, DataError
from pretrain.ledger import BadRowGroup, Entry, PhaseEntry, SkipEntry, in_order
from pretrain.order.mixture import Mixture
from pretrain.order.order import Order, Rows, SourceRows, Visit

SOURCES = [
    SourceRows("books", np.array([4, 4, 3, 4, 2])),
    SourceRows("papers", np.array([4] * 6 + [1])),
    SourceRows("notes", np.array([3, 3, 3, 3, 1, 1]), epochs=2),
]
NAMES = [source.name for source in SOURCES]
SEED, SHUFFLE, BATCH, STEPS = 5, 3, 4, 30
Place = tuple[int, int, int, int]  # source, epoch, group, row


def _order(ledger: Sequence[Entry] = (), weights: Sequence[int] = (3, 1, 0)) -> Order:
    return Order(SOURCES, weights, SEED, BATCH, SHUFFLE, ledger)


def _places(rows: Rows) -> list[Place]:
    columns = (rows.source, rows.epoch, rows.group, rows.row)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _alone(source: int, length: int) -> list[Place]:
    """The first rows of a source, in the order in which a run that reads nothing else shows them."""
    order = Order([SOURCES[source]], [1], SEED, 1, SHUFFLE)
    return [(source, *_places(order.batch(step))[0][1:]) for step in range(length)]


ALONE = [_alone(source, 4 * BATCH * STEPS) for source in range(len(SOURCES))]


def _reference(
    weights: Sequence[int], ledger: Sequence[Entry]
) -> tuple[list[list[Place]], list[tuple[int, Place]]]:
    """The rows of every step, and the skipped ones with the step at which they were passed over."""
    seen = [0] * len(SOURCES)
    batch, mixture, place = BATCH, Mixture(weights), 0
    steps: list[list[Place]] = []
    skipped: list[tuple[int, Place]] = []

    def draw() -> Place:
        nonlocal place
        source = int(np.argmax(mixture.counts(place + 1) - mixture.counts(place)))
        place += 1
        seen[source] += 1
        return ALONE[source][seen[source] - 1]

    for step in range(STEPS):
        for entry in ledger:
            if entry.step == step and isinstance(entry, PhaseEntry):
                batch = entry.global_batch or batch
                if entry.weights is not None:
                    new = Mixture([entry.weights.get(name, 0) for name in NAMES])
                    if new.weights != mixture.weights:
                        mixture, place = new, 0
        for entry in ledger:
            if entry.step == step and isinstance(entry, SkipEntry):
                skipped += [(step, draw()) for _ in range(entry.steps * batch)]
        steps.append([draw() for _ in range(batch)])
    return steps, skipped


_weights = st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any)
_step = st.integers(0, STEPS - 1)
_entry = st.one_of(
    st.builds(
        PhaseEntry,
        step=_step,
        weights=st.none() | _weights.map(lambda weights: dict(zip(NAMES, weights, strict=True))),
        global_batch=st.none() | st.integers(1, 7),
    ),
    st.builds(SkipEntry, step=_step, steps=st.integers(1, 3), reason=st.just("loss")),
)
_ledger = st.lists(_entry, max_size=6).map(in_order)


@settings(max_examples=30, deadline=None)
@given(weights=_weights, ledger=_ledger)
def test_every_step_has_the_rows_that_the_ledger_gives_it(weights, ledger):
    order = _order(ledger, weights)
    steps, _ = _reference(weights, ledger)
    for step in reversed(range(STEPS)):
        assert sorted(_places(order.batch(step))) == sorted(steps[step])
        assert order.global_batch_at(step) == len(steps[step])


@settings(max_examples=12, deadline=None)
@given(weights=_weights, ledger=_ledger)
def test_visits_and_steps_of_find_every_row_read_or_passed_over(weights, ledger):
    order = _order(ledger, weights)
    steps, skipped = _reference(weights, ledger)
    expected: dict[tuple[int, int, int], list[Visit]] = {}
    # what is skipped at the last step's end was not yet
    for step, rows in enumerate(steps):
        for source, epoch, group, row in rows:
            expected.setdefault((source, group, row), []).append(Visit(epoch, step))
    for step, (source, epoch, group, row) in skipped:
        expected.setdefault((source, group, row), []).append(Visit(epoch, step, skipped=True))
    for number, source in enumerate(SOURCES):
        for group, rows in enumerate(source.row_groups.tolist()):
            for row in range(rows):
                found = sorted(
                    expected.get((number, group, row), []), key=lambda visit: visit.epoch
                )
                assert list(order.visits(number, group, row, STEPS)) == found
                assert order.steps_of(number, group, row, STEPS) == sorted(
                    {visit.step for visit in found if not visit.skipped}
                )


@settings(max_examples=30, deadline=None)
@given(weights=_weights, ledger=_ledger)
def test_counts_epochs_and_steps_for_count_what_was_gone_through(weights, ledger):
    order = _order(ledger, weights)
    steps, skipped = _reference(weights, ledger)
    rows_of_epoch = [17, 25, 7]
    held = 0
    for step in range(STEPS):
        before = [place for rows in steps[:step] for place in rows]
        # the sequences that a skip passes over count from the step after it
        before += [place for at, place in skipped if at <= step]
        counts = [sum(place[0] == source for place in before) for source in range(3)]
        assert order.counts(step).tolist() == counts
        assert order.epochs(step) == {
            name: count / rows
            for name, count, rows in zip(NAMES, counts, rows_of_epoch, strict=True)
        }
        assert order.steps_for(held) == step
        assert order.sequences(step) == held
        held += len(steps[step])
        assert order.steps_for(held) == step + 1
        assert order.steps_for(held - len(steps[step]) + 1) == step + 1


def test_annealing_on_the_best_data_disturbs_nothing_that_was_seen():
    # All rows of every source come once an epoch, through changes of the mixture, the batch and a source
    # that joins late.
    ledger = [
        PhaseEntry(7, {"books": 1, "papers": 2, "notes": 1}),
        PhaseEntry(12, None, 6),
        PhaseEntry(20, {"notes": 5, "books": 1}, 3),
    ]
    order, plain = _order(ledger), _order()
    for step in range(7):
        assert _places(order.batch(step)) == _places(plain.batch(step))
    seen = [place for step in range(90) for place in _places(order.batch(step))]
    assert len(seen) == len(set(seen))
    for number in (0, 2):
        epochs = sorted({place[1] for place in seen if place[0] == number})
        assert len(epochs) >= 4
        for epoch in epochs[:-1]:
            rows = {place[2:] for place in seen if place[:2] == (number, epoch)}
            groups = range(epoch % SOURCES[number].epochs, len(SOURCES[number].row_groups))
            groups = groups[:: SOURCES[number].epochs]
            sizes = SOURCES[number].row_groups
            assert rows == {(group, row) for group in groups for row in range(sizes[group])}


def test_an_epoch_of_a_set_built_for_several_reads_the_row_groups_of_that_epoch():
    order = Order([SOURCES[2]], [1], SEED, 7, SHUFFLE)
    for epoch in range(6):
        rows = order.batch(epoch)
        assert set((rows.group % 2).tolist()) == {epoch % 2}
        assert sorted(_places(rows)) == sorted(
            (0, epoch, group, row)
            for group in range(epoch % 2, 6, 2)
            for row in range(SOURCES[2].row_groups[group])
        )
    assert order.epochs(5) == {"notes": 5.0}


def test_rows_of_a_bad_row_group_are_marked_from_its_step_on_and_keep_their_places():
    ledger = [BadRowGroup(4, "books", 1, "checksum"), BadRowGroup(9, "papers", 0, "gone")]
    order, plain = _order(ledger), _order()
    met = 0
    for step in range(40):
        rows = order.batch(step)
        assert _places(rows) == _places(plain.batch(step))
        bad = [
            (step >= 4 and place[0] == 0 and place[2] == 1)
            or (step >= 9 and place[0] == 1 and place[2] == 0)
            for place in _places(rows)
        ]
        assert (~rows.usable).tolist() == bad
        met += sum(bad)
    assert met > 8
    assert plain.batch(0).usable.all()


def test_a_source_of_which_nothing_is_left_stops_the_run():
    bad = [BadRowGroup(3, "books", group, "no such file") for group in range(5)]
    _order(bad[:-1])
    with pytest.raises(DataError, match="all 5 row groups of source 'books' are declared bad"):
        _order(bad)
    _order([*bad[:-1], bad[0]])  # one of them twice, as after a rollback


def test_at_one_step_a_phase_holds_before_a_skip_whichever_was_written_first():
    entries = [PhaseEntry(3, {"papers": 1}, 6), SkipEntry(3, 2, "loss")]
    one, other = _order(entries), _order(entries[::-1])
    for step in (2, 3, 9):
        assert _places(one.batch(step)) == _places(other.batch(step))
    assert one.counts(3).tolist() == [9, 3 + 12, 0]


def test_the_fingerprint_of_the_past_knows_nothing_of_the_future():
    phase, skip = PhaseEntry(10, {"books": 1, "notes": 1}, 6), SkipEntry(15, 1, "loss")
    bad = BadRowGroup(18, "books", 0, "gone")
    plain, order = _order(), _order([phase, skip, bad])
    for until in range(11):
        assert order.fingerprint(until) == plain.fingerprint(until)
    assert order.fingerprint(11) != plain.fingerprint(11)
    assert order.fingerprint(15) == _order([phase]).fingerprint(15)
    assert order.fingerprint(16) != _order([phase]).fingerprint(16)
    assert order.fingerprint(18) == _order([phase, skip]).fingerprint(18)
    assert order.fingerprint(19) == order.fingerprint()
    # a source that joins later, or is only listed, is none of the past's business
    without = Order(SOURCES[:2], [3, 1], SEED, BATCH, SHUFFLE)
    assert without.fingerprint() == plain.fingerprint()
    assert without.fingerprint(10) == order.fingerprint(10)
    other = SourceRows("notes", np.array([3, 3]), epochs=2)
    changed = Order([*SOURCES[:2], other], [3, 1, 0], SEED, BATCH, SHUFFLE, [phase])
    assert changed.fingerprint(10) == order.fingerprint(10)
    assert changed.fingerprint(11) != order.fingerprint(11)


def test_reasons_do_not_enter_the_fingerprint_and_everything_else_of_an_entry_does():
    def of(*ledger: Entry) -> str:
        return _order(ledger).fingerprint()

    assert of(SkipEntry(5, 1, "a")) == of(SkipEntry(5, 1, "b"))
    assert of(BadRowGroup(5, "books", 1, "a")) == of(BadRowGroup(5, "books", 1, "b"))
    different = [
        of(),
        of(SkipEntry(5, 1, "")),
        of(SkipEntry(6, 1, "")),
        of(SkipEntry(5, 2, "")),
        of(BadRowGroup(5, "books", 1, "")),
        of(BadRowGroup(6, "books", 1, "")),
        of(BadRowGroup(5, "books", 2, "")),
        of(BadRowGroup(5, "papers", 1, "")),
        of(PhaseEntry(5, {"books": 1})),
        of(PhaseEntry(5, {"books": 1, "papers": 1})),
        of(PhaseEntry(5, None, 8)),
    ]
    assert len(set(different)) == len(different)


@pytest.mark.parametrize(
    ("ledger", "message"),
    [
        ([PhaseEntry(3, {"boks": 1})], "phase entry at step 3 .*'boks'; did you mean books?"),
        ([PhaseEntry(3, {"zzz": 1})], "'zzz'; known here: books, papers, notes"),
        ([PhaseEntry(3, {"books": 0})], "phase entry at step 3: .*no sources are read"),
        ([PhaseEntry(3, {"books": -1})], "phase entry at step 3: .*not an integer from 0"),
        ([PhaseEntry(3, None, 0)], "phase entry at step 3 has global_batch 0"),
        ([SkipEntry(3, 0, "")], "skip entry at step 3 passes over 0 steps"),
        ([SkipEntry(3, 1, ""), PhaseEntry(2, None, 8)], "phase entry at step 2 is out of order"),
        ([SkipEntry(-1, 1, "")], "skip entry at step -1 is out of order"),
        ([BadRowGroup(3, "paper", 0, "")], "'paper'; did you mean papers?"),
        ([BadRowGroup(3, "books", 5, "")], "row group 5 of source 'books', which has 5"),
    ],
)
def test_an_entry_that_cannot_be_applied_is_named_in_one_line(ledger, message):
    with pytest.raises(ConfigError, match=message) as caught:
        _order(ledger)
    assert "\n" not in str(caught.value)
