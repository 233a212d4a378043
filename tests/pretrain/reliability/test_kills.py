"""Kill -9 at random moments: no start after it computes anything else than a run that nobody touched."""

import random
import shutil
import time
from pathlib import Path

import pytest

from tests import runs, tiny

pytestmark = pytest.mark.long
STEPS = 60
KILLS = 20
CHANGES = {
    "training__steps": STEPS,
    "phases": [
        {"from_step": 20, "weights": {"a": 1, "b": 1}},
        {"from_step": 40, "global_batch": 7},
    ],
    "checkpoint": {"every_steps": 2, "keep": 3, "keep_every": 20},
    "training__validate_every": 10,
}


@pytest.fixture(scope="module")
def untouched(values, sets, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("untouched")
    changes = CHANGES | {"data__validation": {"b": str(sets["b"])}}
    config = tiny.write_config(folder / "run.yaml", values(folder / "run", **changes))
    began = time.monotonic()
    ended = tiny.launch(config)
    assert ended.returncode == 0, ended.stderr[-3000:]
    (folder / "seconds").write_text(str(time.monotonic() - began))
    return folder / "run"


@pytest.mark.timeout(3600)
def test_twenty_kills_at_random_moments_change_no_loss(untouched, values, sets, tmp_path):
    run = tmp_path / "run"
    changes = CHANGES | {"data__validation": {"b": str(sets["b"])}}
    config = tiny.write_config(tmp_path / "run.yaml", values(run, **changes))
    expected = tiny.losses(untouched)
    seconds = float((untouched.parent / "seconds").read_text())
    draw = random.Random(11)
    kills = 0
    while kills < KILLS:
        kills += _start_and_kill(config, run, draw, seconds if kills % 2 else None)
        if (run / "metrics.jsonl").exists():
            assert tiny.losses(run).items() <= expected.items()
        # Killed before it wrote anything, it has no status.
        if (run / "status.json").exists() and runs.status(run)["state"] == "done":
            assert tiny.losses(run) == expected
            shutil.rmtree(run)
    ended = tiny.launch(config)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert tiny.losses(run) == expected
    validation = [line for line in runs.lines(run) if "validation" in line]
    assert validation == [line for line in runs.lines(untouched) if "validation" in line]
    assert runs.checkpoints(run) == [20, 40, 56, 58, 60]


def _start_and_kill(config: Path, run: Path, draw: random.Random, seconds: float | None) -> bool:
    """Kill one rank within so many seconds, or (None) where a checkpoint is written; False: it was done before."""
    process = runs.start(config)
    tiny.wait_for(lambda: len(tiny.rank_processes(config)) == 2 or process.poll() is not None)
    if seconds is None:
        partial = draw.choice([".step-*.partial", ".step-*.partial/*", "step-*/manifest.json"])
        _wait_for_new(run / "checkpoints", partial)
    else:
        time.sleep(draw.uniform(0, seconds))
    ranks = tiny.rank_processes(config)
    if ranks:
        tiny.kill([draw.choice(ranks)])
    runs.end(process, config, timeout_s=300)
    return bool(ranks)


def _wait_for_new(folder: Path, pattern: str) -> None:
    """Until a file of the pattern appears that was not there, or the run has ended otherwise."""
    before = set(folder.glob(pattern))
    deadline = time.monotonic() + 60
    while not set(folder.glob(pattern)) - before and time.monotonic() < deadline:
        time.sleep(0.002)
