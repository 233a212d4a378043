"""Learning rate as a pure function of the step."""

import math

from data_prep.errors import ConfigError
from pretrain.config import Schedule


def learning_rate(schedule: Schedule, peak: float, step: int, steps: int) -> float:
    """Learning rate of step `step` (1 is the first) of a run of `steps`.

    Warmup rises linearly from start_fraction x peak (which step 0 would have) to `peak` at step
    `warmup_steps`. Continued pretraining warms up again, because a model goes on badly at the rate where
    its schedule ended (Gupta et al. 2023, arXiv:2308.04014; Ibrahim et al. 2024, arXiv:2403.08763): a
    start_fraction above 0 begins where that one stopped.

    Then: `cosine` falls along half a period to final_fraction x peak at the horizon and stays there
    (Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts); `linear` falls along a line to the
    same point; `wsd` stays at peak and falls linearly over the last `decay_steps` (Hu et al. 2024,
    arXiv:2404.06395); `constant` stays. A horizon beyond the run leaves the fall unfinished: MEDITRON
    (arXiv:2311.16079) stopped half-way through the cosine of a run twice as long.
    """
    if step < schedule.warmup_steps:
        start = schedule.start_fraction
        return peak * (start + (1 - start) * step / schedule.warmup_steps)
    return peak * (1 - (1 - schedule.final_fraction) * _fallen(schedule, step, steps))


def _fallen(schedule: Schedule, step: int, steps: int) -> float:
    """How much of the fall from peak to its end `step` has behind it, 0 to 1."""
    if schedule.name == "constant":
        return 0.0
    if schedule.name == "wsd":
        return _share(step - (steps - schedule.decay_steps), schedule.decay_steps)
    horizon = schedule.horizon_steps or steps
    share = _share(step - schedule.warmup_steps, horizon - schedule.warmup_steps)
    return share if schedule.name == "linear" else 0.5 * (1 - math.cos(math.pi * share))


def _share(into: int, length: int) -> float:
    return min(1.0, max(0, into) / max(1, length))


def check_schedule(schedule: Schedule, steps: int) -> None:
    """Raise ConfigError where warmup and decay do not fit into the run, or a setting would do nothing."""
    if schedule.start_fraction and not schedule.warmup_steps:
        raise ConfigError(
            f"schedule.start_fraction: found {schedule.start_fraction} without a warmup that begins there; "
            "give schedule.warmup_steps"
        )
    falls_to_horizon = schedule.name in ("cosine", "linear")
    if schedule.horizon_steps and not falls_to_horizon:
        raise ConfigError(
            f"schedule.horizon_steps: {schedule.name} has none; leave it out (cosine and linear end there)"
        )
    end = schedule.horizon_steps or steps
    if schedule.warmup_steps >= end and falls_to_horizon:
        raise ConfigError(
            f"schedule.warmup_steps: {schedule.warmup_steps} is not below the {end} steps that "
            f"{schedule.name} has; shorten the warmup or lengthen the run"
        )
    if schedule.decay_steps and schedule.name != "wsd":
        raise ConfigError(
            f"schedule.decay_steps: {schedule.name} has none; leave it out (wsd falls over its last steps)"
        )
    if schedule.name == "wsd" and not 0 < schedule.decay_steps <= steps - schedule.warmup_steps:
        raise ConfigError(
            f"schedule.decay_steps: found {schedule.decay_steps}; wsd needs 1 to "
            f"{steps - schedule.warmup_steps} (the {steps} steps less {schedule.warmup_steps} of warmup)"
        )
