"""What a run leaves in its folder while it goes on, and when it goes back."""

import json
import math
from pathlib import Path

import pytest

from pretrain.config import RunConfig
from pretrain.ledger import PhaseEntry, SkipEntry, read_ledger
from pretrain.run_folder import read_status
from pretrain.watch.metrics import METRICS, roll_back
from pretrain.watch.reporter import Reporter
from tests import tiny


def lines(run: Path, name: str = "metrics.jsonl") -> list[dict]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


@pytest.fixture
def reporter(tmp_path: Path) -> Reporter:
    config = RunConfig.model_validate(tiny.run_config(tmp_path, {"a": tmp_path}))
    reporter = Reporter(config, 100, speaks=True)
    reporter.start({}, [PhaseEntry(0, {"a": 1}, 4)], {"model": "gpt2"}, -1)
    return reporter


def loss(step: int, value: float) -> dict:
    line = {"step": step, "loss": value, "gradient_norm": 1.0, "learning_rate": 1e-3}
    return line | {"tokens_per_second": 5.0, "seconds": 1.0}


def test_a_rollback_puts_later_lines_aside_and_new_ones_take_their_place(tmp_path, reporter):
    with reporter.progress(0):
        for step in range(1, 6):
            reporter.step(loss(step, 2.0))
        reporter.step(loss(6, float("nan")))
        reporter.roll_back(4, {"event": "rolled_back", "reason": "loss nan"})
        reporter.step(loss(5, 1.9))
    reporter.finish("done", 5, 0, "")
    kept = lines(tmp_path)
    assert [line["loss"] for line in kept if "loss" in line] == [2.0] * 4 + [1.9]
    (event,) = (line for line in kept if line.get("event") == "rolled_back")
    assert event == {
        "step": 4,
        "event": "rolled_back",
        "reason": "loss nan",
        "rolled_back": 2,
    }
    aside = lines(tmp_path, "metrics.rolled-back.jsonl")
    assert [(line["step"], line["loss"]) for line in aside] == [(5, 2.0), (6, None)]
    assert read_status(tmp_path)["state"] == "done"


def test_a_half_line_is_dropped_and_no_line_of_an_earlier_step_is_moved(tmp_path):
    whole = ['{"step": 1}\n', '{"step": 3}\n', '{"step": 2, "event": "skip"}\n', '{"step": 4}\n']
    (tmp_path / METRICS).write_text("".join(whole) + '{"step": 5, "lo')
    assert roll_back(tmp_path, 9) == 0
    assert (tmp_path / METRICS).read_text() == "".join(whole)
    assert not (tmp_path / "metrics.rolled-back.jsonl").exists()
    assert roll_back(tmp_path, 2) == 2
    assert (tmp_path / METRICS).read_text() == whole[0] + whole[2]
    assert (tmp_path / "metrics.rolled-back.jsonl").read_text() == whole[1] + whole[3]


def test_new_entries_of_the_ledger_stand_in_it_and_among_the_metrics(tmp_path, reporter):
    skip = SkipEntry(4, 2, "guard: step 6: loss nan")
    reporter.ledger([PhaseEntry(0, {"a": 1}, 4), skip], [skip])
    assert read_ledger(tmp_path)[-1] == skip
    assert lines(tmp_path)[-1] == {"event": "skip", "step": 4, "steps": 2, "reason": skip.reason}


def test_a_save_that_nearly_took_too_long_is_warned_of(reporter, capfd):
    minutes = reporter.config.timeout_minutes
    reporter.saved(1, "step-1", minutes * 60 / 3)
    assert "warning" not in capfd.readouterr().err
    reporter.saved(2, "step-2", minutes * 60 / 3 + 1)
    assert f"raise it to {math.ceil(minutes) + 1}, three times" in " ".join(
        capfd.readouterr().err.split()
    )


def test_only_the_lines_of_the_last_step_are_looked_for_at_the_end(tmp_path, reporter):
    for step in range(3000):
        reporter.write({"step": step, "loss": 1.0, "text": "x" * 1000})
    reporter.validation(2999, {"a": {"loss": 1.0}})
    assert reporter.told(2999) == {"step", "loss", "text", "validation"}
    assert reporter.told(3000) == set()


def test_another_rank_says_nothing(tmp_path, capfd):
    config = RunConfig.model_validate(tiny.run_config(tmp_path / "run", {"a": tmp_path}))
    silent = Reporter(config, 100, speaks=False)
    silent.start({}, [], {"model": "gpt2"}, -1)
    with silent.progress(0):
        silent.step(loss(1, 2.0))
    silent.overflow(1, 1024.0, 1)
    silent.roll_back(0, {"event": "rolled_back"})
    silent.saved(1, "step-1", 0.1)
    silent.finish("done", 1, 0, "")
    assert not (tmp_path / "run").exists()
    assert capfd.readouterr() == ("", "")
