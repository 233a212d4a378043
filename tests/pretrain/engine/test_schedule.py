"""Learning rates against the schedules' own libraries in torch, step by step."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.errors import ConfigError
from pretrain.config import Schedule
from pretrain.engine.schedule import check_schedule, learning_rate


def test_cosine_equals_torchs_linear_warmup_and_cosine_annealing():
    steps, warmup, peak, floor = 50, 10, 3e-4, 0.1
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=peak)
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=steps - warmup, eta_min=peak * floor
    )
    schedule = Schedule(name="cosine", warmup_steps=warmup, final_fraction=floor)
    for step in range(warmup, steps + 1):
        found = learning_rate(schedule, peak, step, steps)
        assert found == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        annealing.step()
    assert [learning_rate(schedule, peak, step, steps) for step in (1, 5, 10)] == pytest.approx(
        [peak / 10, peak / 2, peak]
    )


def test_a_horizon_beyond_the_run_stops_cosine_half_way():
    # MEDITRON: a cosine of two epochs, stopped after one.
    schedule = Schedule(name="cosine", horizon_steps=200, final_fraction=0.0)
    assert learning_rate(schedule, 1.0, 100, 100) == pytest.approx(0.5)
    assert learning_rate(schedule, 1.0, 200, 100) == pytest.approx(0.0)


def test_wsd_stays_at_its_peak_and_falls_linearly_over_the_last_steps():
    schedule = Schedule(name="wsd", warmup_steps=2, decay_steps=4, final_fraction=0.2)
    rates = [learning_rate(schedule, 1.0, step, 10) for step in range(1, 11)]
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_constant_stays():
    schedule = Schedule(name="constant", warmup_steps=1)
    assert {learning_rate(schedule, 2.0, step, 10) for step in range(1, 11)} == {2.0}


def test_linear_falls_on_a_line_to_its_horizon_and_stays():
    schedule = Schedule(name="linear", warmup_steps=2, horizon_steps=6, final_fraction=0.2)
    rates = [learning_rate(schedule, 1.0, step, 8) for step in range(1, 9)]
    assert rates == pytest.approx([0.5, 1, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2])


def test_rewarming_rises_from_where_the_last_schedule_ended():
    # Ibrahim et al. 2024: a run that ended at a tenth of its peak goes on and is warmed up again.
    before = Schedule(name="cosine", final_fraction=0.1)
    ended = learning_rate(before, 3e-4, 100, 100)
    again = Schedule(name="cosine", warmup_steps=9, start_fraction=0.1)
    rates = [learning_rate(again, 3e-4, step, 100) for step in range(1, 10)]
    assert rates == pytest.approx([ended + (3e-4 - ended) * step / 9 for step in range(1, 10)])


# No test of time: a busy machine is slow.
properties = settings(deadline=None, max_examples=60)


@st.composite
def schedules(draw, names=("cosine", "linear", "wsd", "constant")):
    """(schedule, steps of the run) that check_schedule lets pass."""
    steps = draw(st.integers(2, 120))
    name = draw(st.sampled_from(names))
    warmup = draw(st.integers(0, steps - 1))
    horizon = draw(st.none() | st.integers(warmup + 1, 3 * steps))
    schedule = Schedule(
        name=name,
        warmup_steps=warmup,
        start_fraction=draw(st.floats(0, 1)) if warmup else 0.0,
        decay_steps=draw(st.integers(1, steps - warmup)) if name == "wsd" else 0,
        horizon_steps=horizon if name in ("cosine", "linear") else None,
        final_fraction=draw(st.floats(0, 1)),
    )
    check_schedule(schedule, steps)
    return schedule, steps


@properties
@given(schedules())
def test_a_rate_never_leaves_its_bounds(case):
    schedule, steps = case
    low = min(schedule.start_fraction, schedule.final_fraction)
    for step in range(1, steps + 1):
        assert low - 1e-12 <= learning_rate(schedule, 1.0, step, steps) <= 1 + 1e-12


@properties
@given(schedules())
def test_a_rate_makes_no_jump(case):
    schedule, steps = case
    horizon = schedule.horizon_steps or steps
    fall = schedule.decay_steps if schedule.name == "wsd" else horizon - schedule.warmup_steps
    # The steepest place of half a cosine is pi / 2 of the line's.
    largest = max(1 / max(1, schedule.warmup_steps), math.pi / 2 / fall)
    rates = [learning_rate(schedule, 1.0, step, steps) for step in range(1, steps + 1)]
    for before, after in itertools.pairwise(rates):
        assert abs(after - before) <= largest + 1e-12


@properties
@given(schedules())
def test_rates_rise_to_the_peak_and_never_rise_after_it(case):
    schedule, steps = case
    rates = [learning_rate(schedule, 1.0, step, steps) for step in range(1, steps + 1)]
    warmup = schedule.warmup_steps
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    if warmup:
        assert rates[warmup - 1] == 1.0


@properties
@given(schedules(names=("cosine", "linear")), st.integers(1, 500))
def test_a_cosine_and_a_line_end_at_their_horizon(case, beyond):
    schedule, steps = case
    horizon = schedule.horizon_steps or steps
    for step in (horizon, horizon + beyond):
        assert learning_rate(schedule, 1.0, step, steps) == pytest.approx(schedule.final_fraction)


@pytest.mark.parametrize(
    ("schedule", "field"),
    [
        (Schedule(name="linear", warmup_steps=10), "schedule.warmup_steps"),
        (Schedule(name="cosine", start_fraction=0.1), "schedule.start_fraction"),
        (Schedule(name="wsd", decay_steps=2, horizon_steps=20), "schedule.horizon_steps"),
        (Schedule(name="cosine", decay_steps=2), "schedule.decay_steps"),
        (Schedule(name="cosine", warmup_steps=10), "schedule.warmup_steps"),
        (Schedule(name="wsd", decay_steps=0), "schedule.decay_steps"),
        (Schedule(name="wsd", warmup_steps=5, decay_steps=6), "schedule.decay_steps"),
    ],
)
def test_warmup_and_decay_that_do_not_fit_are_refused(schedule, field):
    with pytest.raises(ConfigError, match=field):
        check_schedule(schedule, 10)
    assert math.isfinite(learning_rate(schedule, 1.0, 10, 10))
