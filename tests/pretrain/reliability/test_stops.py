"""SIGTERM in every phase of a run: what is saved, and that the next start goes on with the same losses."""

import signal
from pathlib import Path

import pytest

from tests import runs, tiny

pytestmark = pytest.mark.long
CHANGES = {"training__validate_every": 6, "checkpoint": {"every_steps": 6, "keep": 10}}


def begun(run: Path) -> bool:
    return (run / "status.json").exists()


def set_up(run: Path) -> bool:
    return (run / "config.yaml").exists()


def validating(run: Path) -> bool:
    return runs.last_step(run) >= 6


def saving(run: Path) -> bool:
    return any((run / "checkpoints").glob(".step-*.partial"))


def saved(run: Path) -> bool:
    return bool(runs.checkpoints(run))


def almost_done(run: Path) -> bool:
    return runs.last_step(run) >= 23


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("phase", [begun, set_up, validating, saving, saved, almost_done])
def test_sigterm_in_any_phase_costs_nothing(phase, rank, uninterrupted, values, sets, tmp_path):
    run = tmp_path / "run"
    changes = CHANGES | {"data__validation": {"b": str(sets["b"])}}
    config = tiny.write_config(tmp_path / "run.yaml", values(run, **changes))
    process = runs.start(config)
    tiny.wait_for(lambda: phase(run) or process.poll() is not None)
    if ranks := tiny.rank_processes(config):
        tiny.kill(ranks[rank : rank + 1], signal.SIGTERM)
    said = runs.end(process, config)
    assert "Traceback" not in said
    if (run / "metrics.jsonl").exists():
        assert tiny.losses(run).items() <= tiny.losses(uninterrupted).items()
    told = runs.status(run)
    if told["state"] == "interrupted":
        assert told["code"] == 75
        assert told["step"] == (runs.checkpoints(run) or [0])[-1]
    ended = tiny.launch(config)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert tiny.losses(run) == tiny.losses(uninterrupted)
    assert validated(run) == [0, 6, 12, 18, 24]


def validated(run: Path) -> list[int]:
    return [line["step"] for line in runs.lines(run) if "validation" in line]


def test_a_signal_ends_a_validation_and_the_next_start_makes_up_for_it(values, tmp_path):
    held_out = tiny.shard_set(tmp_path / "held-out", 3000, 5)  # seconds of validation
    run = tmp_path / "run"
    changes = CHANGES | {"data__validation": {"b": str(held_out)}, "training__steps": 12}
    config = tiny.write_config(tmp_path / "run.yaml", values(run, phases=[], **changes))
    process = runs.start(config)
    tiny.wait_for(lambda: validating(run) or process.poll() is not None)
    tiny.kill(tiny.rank_processes(config)[:1], signal.SIGTERM)
    runs.end(process, config)
    told = runs.status(run)
    assert (told["state"], told["code"], told["step"]) == ("interrupted", 75, 6)
    assert validated(run) == [0]
    ended = tiny.launch(config)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert validated(run) == [0, 6, 12]
    assert list(tiny.losses(run)) == list(range(1, 13))
