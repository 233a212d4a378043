"""Learning rate as a pure function of the step."""

import math

from data_prep.errors import ConfigError
from pretrain.config import Schedule


def learning_rate(schedule: Schedule, peak: float, step: int, steps: int) -> float:
    """Learning rate of step `step` (1 is the first) of a run of `steps`.

    Warmup is linear from 0 (not reached) to `peak` at step `warmup_steps`. Then: `cosine` falls along
    half a period to final_fraction x peak at the horizon and stays there (Loshchilov & Hutter 2017,
    arXiv:1608.03983, without restarts); `wsd` stays at peak and falls linearly over the last
    `decay_steps` (Hu et al. 2024, arXiv:2404.06395); `constant` stays.
    """
    if step <= schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    if schedule.name == "constant":
        return peak
    floor = schedule.final_fraction
    if schedule.name == "wsd":
        into_decay = step - (steps - schedule.decay_steps)
        progress = min(1.0, max(0, into_decay) / max(1, schedule.decay_steps))
        return peak * (1 - (1 - floor) * progress)
    horizon = schedule.horizon_steps or steps
    progress = (step - schedule.warmup_steps) / max(1, horizon - schedule.warmup_steps)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def check_schedule(schedule: Schedule, steps: int) -> None:
    """Raise ConfigError where warmup and decay do not fit into the run."""
    end = schedule.horizon_steps or steps
    if schedule.warmup_steps >= end and schedule.name == "cosine":
        raise ConfigError(
            f"schedule.warmup_steps: {schedule.warmup_steps} is not below the {end} steps that cosine "
            "has; shorten the warmup or lengthen the run"
        )
    if schedule.name == "wsd" and not 0 < schedule.decay_steps <= steps - schedule.warmup_steps:
        raise ConfigError(
            f"schedule.decay_steps: found {schedule.decay_steps}; wsd needs 1 to "
            f"{steps - schedule.warmup_steps} (the {steps} steps less {schedule.warmup_steps} of warmup)"
        )
