"""Learning rates against the schedules' own libraries in torch, step by step."""

import math

import pytest
import torch

from data_prep.errors import ConfigError
from pretrain.config import Schedule
from pretrain.schedule import check_schedule, learning_rate


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


@pytest.mark.parametrize(
    ("schedule", "field"),
    [
        (Schedule(name="cosine", warmup_steps=10), "schedule.warmup_steps"),
        (Schedule(name="wsd", decay_steps=0), "schedule.decay_steps"),
        (Schedule(name="wsd", warmup_steps=5, decay_steps=6), "schedule.decay_steps"),
    ],
)
def test_warmup_and_decay_that_do_not_fit_are_refused(schedule, field):
    with pytest.raises(ConfigError, match=field):
        check_schedule(schedule, 10)
    assert math.isfinite(learning_rate(schedule, 1.0, 10, 10))
