"""A torch profiler over two late steps: a trace to look at, and which kernels took the time."""

import json
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

WAIT, WARM_UP, ACTIVE = 4, 1, 2  # steps
NEEDED = WAIT + WARM_UP + ACTIVE + 1
TRACE, KERNELS = "trace.json.gz", "kernels.json"
TOP = 20


def step_profiler(folder: str) -> profile:
    """Started; its `step()` ends each step. The files are written when the last one looked at has ended."""
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)

    def ready(done: profile) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        done.export_chrome_trace(str(Path(folder) / TRACE))
        (Path(folder) / KERNELS).write_text(json.dumps(_kernels(done)))

    made = profile(
        activities=activities,
        schedule=schedule(wait=WAIT, warmup=WARM_UP, active=ACTIVE, repeat=1),
        on_trace_ready=ready,
    )
    made.start()
    return made


def _kernels(done: profile) -> list[tuple[str, float]]:
    """(name, seconds a step) of the kernels, or of the operations where there is no card; longest first."""
    on_card = torch.cuda.is_available()
    found = []
    for event in done.key_averages():
        if on_card and event.device_type != torch.autograd.DeviceType.CUDA:
            continue
        own = event.self_device_time_total if on_card else event.self_cpu_time_total
        if own and not event.key.startswith("ProfilerStep"):
            found.append((event.key, own / 1e6 / ACTIVE))
    return sorted(found, key=lambda one: -one[1])
