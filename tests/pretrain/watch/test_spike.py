"""When a loss or a gradient norm counts as a spike, and which data is then left out."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.shards.reader import ShardSet
from pretrain.config import Guard
from pretrain.ledger import BadRowGroup, PhaseEntry, SkipEntry, in_order
from pretrain.order.order import Order, SourceRows
from pretrain.tracing.trace import batch_rows
from pretrain.watch.spike import SpikeDetector, data_to_skip, rollbacks
from pretrain.watch.spike_record import save_spike
from tests import tiny

GUARD = Guard()
STEPS = 3000
finite = st.floats(1e-3, 20, allow_nan=False)


def curves() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Losses and gradient norms of runs without a spike, STEPS each."""
    draw, t = np.random.default_rng(0), np.arange(STEPS)
    often = t % 20 == 0
    rare = draw.random(STEPS) < 0.003
    flat = np.zeros(STEPS)

    def norms(middle, spread):
        return middle * np.exp(draw.normal(0, spread, STEPS))

    return {
        "from scratch": (
            1.8 + 18 * (t + 20) ** -0.35 + draw.normal(0, 0.02, STEPS),
            norms(0.3 + 5 * np.exp(-t / 300), 0.15),
        ),
        "warmed up again": (
            2 + 0.15 * np.exp(-(((t - 1000) / 400) ** 2)) + draw.normal(0, 0.03, STEPS),
            norms(0.5, 0.2),
        ),
        "few sequences a step": (
            1.9 + np.exp(-t / 500) + draw.normal(0, 0.4 / math.sqrt(8), STEPS),
            norms(1.5, 0.45),
        ),
        "a harder source in every twentieth step": (
            1.0 + 1.2 * often + draw.normal(0, 0.04, STEPS),
            norms(1 + 1.5 * often, 0.2),
        ),
        "gradients that are large now and then": (
            2.2 + draw.normal(0, 0.02, STEPS),
            norms(0.4 * np.where(rare, 6, 1), 0.2),
        ),
        "learnt by heart": (
            0.02 + 2 * np.exp(-t / 400) + np.abs(draw.normal(0, 0.01, STEPS)),
            norms(0.1, 0.5),
        ),
        "always the same": (flat + 2.0, flat + 1.0),
        "masked whole": (flat, flat),
    }


CURVES = curves()


def after(losses, norms, phases=(), guard=GUARD) -> SpikeDetector:
    """A detector that has seen these steps."""
    detector = SpikeDetector(guard, phases)
    for loss, norm in zip(losses, norms, strict=True):
        detector.add(float(loss), float(norm))
    return detector


@pytest.mark.parametrize("name", CURVES)
def test_a_run_without_spikes_is_left_alone(name):
    detector = SpikeDetector(GUARD)
    for loss, norm in zip(*(values.tolist() for values in CURVES[name]), strict=True):
        assert detector.look(loss, norm) is None
        detector.add(loss, norm)


@pytest.mark.parametrize("name", ["from scratch", "warmed up again", "always the same"])
@pytest.mark.parametrize("step", [600, 1000, 2999])
def test_a_jump_of_the_loss_by_two_nats_is_a_spike(name, step):
    losses, norms = (values[:step] for values in CURVES[name])
    jumped = float(np.median(losses[-128:])) + 2
    why = after(losses, norms).look(jumped, float(norms[-1]))
    assert why is not None
    assert why.startswith(f"loss {jumped:.4g}, of 128 steps before it the median is ")


def test_a_gradient_a_hundred_times_as_large_is_a_spike_though_the_loss_is_not():
    losses, norms = CURVES["warmed up again"]
    why = after(losses, norms).look(float(losses[-1]), float(norms[-1]) * 100)
    assert why is not None
    assert why.startswith("gradient_norm ")


def test_a_loss_that_climbs_step_by_step_does_not_lift_its_own_bound():
    detector = after(*CURVES["warmed up again"])
    losses = [2.0 + 0.1 * number for number in range(1, 10)]
    for loss in losses:
        if detector.look(loss, 0.5):
            break
        detector.add(loss, 0.5)
    else:
        pytest.fail("a rise by 0.9 nats was not seen")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_is_a_spike_from_the_first_step_on(value):
    detector = SpikeDetector(GUARD)
    assert detector.look(value, 1.0) == f"loss {value}"
    assert detector.look(1.0, value) == f"gradient_norm {value}"


def test_nothing_else_is_one_before_the_window_is_full():
    losses, norms = CURVES["warmed up again"]
    window = GUARD.window
    assert after(losses[: window - 1], norms[: window - 1]).look(1000.0, 1000.0) is None
    assert after(losses[:window], norms[:window]).look(1000.0, 1000.0) is not None


def test_a_phase_takes_the_range_anew():
    losses, norms = CURVES["warmed up again"]
    seen, window = 1000, GUARD.window
    detector = after(losses[:seen], norms[:seen], phases=[seen])
    assert detector.look(5.0, 30.0) is None
    for _ in range(window):
        assert detector.look(5.0, 30.0) is None
        detector.add(5.0, 30.0)
    assert detector.look(8.0, 30.0) is not None


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(st.tuples(finite, finite), min_size=1, max_size=60),
    phases=st.sets(st.integers(1, 60), max_size=3),
    overflows=st.sets(st.integers(1, 60), max_size=5),
    cut=st.integers(0, 60),
    window=st.integers(8, 16),
)
def test_a_resumed_run_decides_as_one_that_never_stopped(steps, phases, overflows, cut, window):
    guard = Guard(window=window, loss_deviations=2, gradient_deviations=2)
    whole, lines, told = SpikeDetector(guard, phases), [], []
    for number, (loss, norm) in enumerate(steps, 1):
        norm = math.inf if number in overflows else norm
        told.append(whole.look(loss, norm))
        whole.add(loss, norm)
        line = {"step": number, "loss": loss, "gradient_norm": norm if norm < math.inf else None}
        lines += [line, {"step": number, "event": "checkpoint", "seconds": 1.0}]
    # through JSON, as metrics.jsonl has it
    history = [json.loads(json.dumps(line)) for line in lines if line["step"] <= cut]
    history = history[-2 * window :]  # of the last `window` steps
    resumed = SpikeDetector.from_history(guard, history, phases)
    for number, (loss, norm) in list(enumerate(steps, 1))[cut:]:
        norm = math.inf if number in overflows else norm
        assert resumed.look(loss, norm) == told[number - 1]
        resumed.add(loss, norm)


@settings(max_examples=100, deadline=None)
@given(losses=st.lists(finite, min_size=128, max_size=128), shift=st.floats(0, 5), norm=finite)
def test_what_was_seen_in_the_window_is_no_spike_and_a_larger_value_never_less_of_one(
    losses, shift, norm
):
    detector = after(losses, [norm] * 128)
    largest = max(losses[:-8])
    assert detector.look(largest, norm) is None
    if detector.look(largest + shift, norm):
        assert detector.look(largest + shift + 1, norm)


# ---- what is left out ---------------------------------------------------------------------------


def order(ledger) -> Order:
    sizes = np.full(30, 8)
    return Order([SourceRows("a", sizes), SourceRows("b", sizes)], [2, 1], 7, 6, 4, ledger)


def batch(of: Order, step: int) -> list[list[int]]:
    rows = of.batch(step)
    return np.stack([rows.source, rows.epoch, rows.group, rows.row]).tolist()


PERSONS = [
    SkipEntry(5, 2, "these looked odd"),
    BadRowGroup(14, "a", 3, "checksum"),
    PhaseEntry(20, {"a": 1, "b": 1}, 8),
]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), skip_steps=st.integers(1, 12))
def test_the_spikes_own_data_is_never_trained_on_again_and_what_went_before_stays(data, skip_steps):
    checkpoint = data.draw(st.integers(0, 30), label="checkpoint")
    spike = data.draw(st.integers(checkpoint + 1, checkpoint + 15), label="spike")
    before = order(PERSONS)
    entry = data_to_skip(spike, checkpoint, Guard(skip_steps=skip_steps), PERSONS, "loss 11.2")
    now = order(in_order([*PERSONS, entry]))
    assert checkpoint <= entry.step < spike == entry.step + entry.steps
    assert entry.steps <= skip_steps
    for step in range(entry.step):
        assert batch(now, step) == batch(before, step)
    # The step after the gap is the one after the spike, unless a phase begins there.
    if spike not in {5, 20}:
        assert batch(now, entry.step) == batch(before, spike)
    skipped = {tuple(row) for row in np.transpose(batch(before, spike - 1)).tolist()}
    for step in range(entry.step, entry.step + 10):
        assert not skipped & {tuple(row) for row in np.transpose(batch(now, step)).tolist()}


def test_a_second_spike_at_the_same_place_leaves_out_what_comes_next():
    first = data_to_skip(11, 10, Guard(), [], "loss 11.2")
    second = data_to_skip(11, 10, Guard(), [first], "loss 11.3")
    assert batch(order([first, second]), 10) == batch(order([]), 12)


def test_the_guards_entries_are_told_from_a_persons():
    own = data_to_skip(30, 20, Guard(skip_steps=4), PERSONS, "loss nan")
    assert own == SkipEntry(26, 4, "guard: step 30: loss nan")
    assert rollbacks(in_order([*PERSONS, own])) == [own]


# ---- what is written down -----------------------------------------------------------------------


def test_the_record_of_a_spike_names_the_documents_of_its_batch(tmp_path: Path):
    sets = {"a": ShardSet(tiny.shard_set(tmp_path / "a", 80))}
    of = Order([SourceRows("a", sets["a"].row_groups)], [1], 7, 4, 4)
    facts = {"why": "loss nan", "loss": math.nan, "gradient_norm": 2.0}
    save_spike(tmp_path, 3, facts, of, sets).join()
    record = json.loads((tmp_path / "spikes/step-00000003.json").read_text())
    assert (record["step"], record["why"], record["loss"]) == (3, "loss nan", None)
    traced = batch_rows(of, sets, 3)
    assert [row["row"] for row in record["rows"]] == [row.row for row in traced]
    for row, expected in zip(record["rows"], of.batch(2).row.tolist(), strict=True):
        assert row["row"] == expected
        assert row["documents"]
        assert {"id", "pmid", "pmcid", "licence"} <= set(row["documents"][0])


def test_a_spike_in_a_set_that_cannot_be_read_is_recorded_all_the_same(tmp_path: Path):
    folder = tiny.shard_set(tmp_path / "a", 80)
    sets = {"a": ShardSet(folder)}
    of = Order([SourceRows("a", sets["a"].row_groups)], [1], 7, 4, 4)
    for file in sets["a"].manifest.files:
        (folder / file.name).unlink()
    save_spike(tmp_path, 3, {"why": "loss 11.2"}, of, sets).join()
    record = json.loads((tmp_path / "spikes/step-00000003.json").read_text())
    assert record["why"] == "loss 11.2"
    assert str(folder) in record["no_rows"]
