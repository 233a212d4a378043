"""Killed, interrupted, started twice: what a run's folder is worth afterwards."""

import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.slurm import verdict
from tests import tiny
from tests.pretrain.conftest import STEPS
from tests.runs import last_step, start, status


@pytest.fixture
def config(tmp_path: Path, values) -> Path:
    return tiny.write_config(tmp_path / "run.yaml", values(tmp_path / "run"))


def test_a_rank_killed_in_mid_run_costs_nothing_but_time(config, uninterrupted, tmp_path):
    run = tmp_path / "run"
    process = start(config)
    tiny.wait_for(lambda: last_step(run) >= 11)
    tiny.kill(tiny.rank_processes(config)[1:])
    process.communicate(timeout=120)
    tiny.wait_for(lambda: not tiny.rank_processes(config))
    assert status(run)["state"] != "done"

    ended = tiny.launch(config)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert tiny.losses(run) == tiny.losses(uninterrupted)  # bit for bit, and each step once
    rolled_back = tiny.losses(run, "metrics.rolled-back.jsonl")
    assert rolled_back.items() <= tiny.losses(uninterrupted).items()
    assert status(run)["state"] == "done"

    again = tiny.launch(config)
    assert again.returncode == 0
    assert "is finished" in again.stderr

    done = status(run)
    other = tiny.run_alone(config, "pretrain", "--optimizer.learning_rate", "2e-5")
    assert other.returncode == 2  # not taken for the run that is finished
    assert "optimizer.learning_rate: was 0.001, is 2e-05" in other.stderr
    changes = ["--optimizer.learning_rate", "2e-5", "--training.steps", "30"]
    longer = tiny.run_alone(config, "pretrain", *changes)
    assert longer.returncode == 2
    assert status(run) == done  # and a job's script does not take it for this start's
    assert verdict(done, status(run), "8", 2) == (2, "did not start")


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.long)]
)
def test_a_signal_to_one_rank_saves_on_all_and_ends_with_75(
    number, config, uninterrupted, tmp_path
):
    run = tmp_path / "run"
    process = start(config)
    tiny.wait_for(lambda: last_step(run) >= 6)
    tiny.kill(tiny.rank_processes(config)[1:], number)
    process.communicate(timeout=120)
    tiny.wait_for(lambda: not tiny.rank_processes(config))
    told = status(run)
    assert (told["state"], told["code"]) == ("interrupted", 75)
    assert signal.Signals(number).name in told["reason"]
    assert (run / "checkpoints" / f"step-{told['step']:08d}" / "manifest.json").exists()

    before = tiny.losses(run)
    assert list(before) == list(range(1, told["step"] + 1))  # nothing is lost, nothing to roll back
    if number == signal.SIGTERM:
        assert tiny.launch(config).returncode == 0
        assert tiny.losses(run) == tiny.losses(uninterrupted)


def test_sigterm_to_the_deepspeed_command_leaves_no_orphans(config, tmp_path):
    run = tmp_path / "run"
    process = start(config)
    tiny.wait_for(lambda: last_step(run) >= 6)
    process.terminate()
    process.communicate(timeout=120)
    tiny.wait_for(lambda: not tiny.rank_processes(config))
    told = status(run)
    assert (told["state"], told["code"]) == ("interrupted", 75)


def test_a_second_run_in_the_folder_is_refused_and_costs_the_first_nothing(
    config, uninterrupted, tmp_path
):
    run = tmp_path / "run"
    first = start(config)
    tiny.wait_for(lambda: last_step(run) >= 6)
    ranks = tiny.rank_processes(config)
    tiny.kill(ranks, signal.SIGSTOP)  # or it might be done before the second one asks
    stats = [Path(f"/proc/{pid}/stat") for pid in ranks]
    tiny.wait_for(lambda: all(") T " in stat.read_text() for stat in stats))
    before = status(run), (run / "metrics.jsonl").read_bytes()
    # launch/pretrain.py itself, but that it waits for a second instead of a minute.
    impatient = (
        "import runpy; from pretrain import run_folder; run_folder.LOCK_WAIT_S = 1.0\n"
        "runpy.run_path('launch/pretrain.py', run_name='__main__')"
    )
    try:
        second = subprocess.run(
            [sys.executable, "-c", impatient, "--config", str(config)],
            cwd=tiny.ROOT,
            env=tiny.ENVIRONMENT | {"MASTER_PORT": str(tiny.free_port())},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        after = status(run), (run / "metrics.jsonl").read_bytes()
    finally:
        tiny.kill(ranks, signal.SIGCONT)
    first.communicate(timeout=120)
    tiny.wait_for(lambda: not tiny.rank_processes(config))

    assert second.returncode == 1, second.stderr[-3000:]
    refusal = f"run: {run} is in use by process {ranks[0]} on {socket.gethostname()} (waited 1 s)"
    assert second.stderr.splitlines()[-1] == f"{refusal}; stop it, or choose another folder"
    assert "Traceback" not in second.stderr
    assert after == before
    assert (first.returncode, status(run)["state"]) == (0, "done")
    assert tiny.losses(run) == tiny.losses(uninterrupted)
    assert not (run / "metrics.rolled-back.jsonl").exists()


@pytest.mark.long
def test_a_damaged_checkpoint_is_named_and_passed_over(uninterrupted, values, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    (run / "status.json").unlink()
    newest = run / "checkpoints" / f"step-{STEPS:08d}"
    changed = next(newest.glob("*optim_states.pt"))
    content = bytearray(changed.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    half_written = run / "checkpoints" / ".step-00000099.partial"
    half_written.mkdir()
    keep_one = {"every_steps": 3, "keep": 1}  # saves 21, which is older than the damaged one
    config = tiny.write_config(tmp_path / "run.yaml", values(run, checkpoint=keep_one))
    ended = tiny.launch(config)
    assert ended.returncode == 0, ended.stderr[-3000:]
    message = ended.stderr
    assert f"{newest.name} is damaged and is passed over" in message
    assert changed.name in message
    assert tiny.losses(run) == tiny.losses(uninterrupted)
    assert not half_written.exists()
    left = sorted(path.name for path in (run / "checkpoints").iterdir() if path.is_dir())
    assert left == [f"damaged-{newest.name}", newest.name]


def test_changed_settings_are_refused_with_the_differences_listed(uninterrupted, values, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    (run / "status.json").unlink()
    changed = values(run, seed=8, optimizer__learning_rate=2e-3)
    config = tiny.write_config(tmp_path / "run.yaml", changed)
    ended = tiny.run_alone(config)
    assert ended.returncode == 2
    assert "optimizer.learning_rate: was 0.001, is 0.002" in ended.stderr
    assert "seed: was 7, is 8" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert (run / "checkpoints" / f"step-{STEPS:08d}").is_dir()


@pytest.mark.long
def test_frozen_base_weights_survive_a_resume_of_lora(values, base_model, tmp_path):
    lora = {"path": str(base_model), "lora": {"rank": 4, "dropout": 0.1}}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    settings = {"model": lora, "training__steps": 8, "checkpoint": {"every_steps": 4}}
    settings["training__precision"] = "bf16"
    config = tiny.write_config(tmp_path / "whole.yaml", values(whole, **settings))
    ended = tiny.launch(config, 2, "instruct")
    assert ended.returncode == 0, ended.stderr[-3000:]
    shutil.copytree(whole, stopped)
    shutil.rmtree(stopped / "checkpoints" / "step-00000008")
    (stopped / "status.json").unlink()
    config = tiny.write_config(tmp_path / "stopped.yaml", values(stopped, **settings))
    ended = tiny.launch(config, 2, "instruct")
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert tiny.losses(stopped) == tiny.losses(whole)

    changed = tmp_path / "changed base"
    shutil.copytree(base_model, changed)
    content = bytearray((changed / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (changed / "model.safetensors").write_bytes(content)
    (stopped / "status.json").unlink()
    settings["model"] = lora | {"path": str(changed)}
    config = tiny.write_config(tmp_path / "stopped.yaml", values(stopped, **settings))
    ended = tiny.run_alone(config, "instruct")
    assert ended.returncode == 2
    assert "base model's weights: was" in ended.stderr

    other = tmp_path / "other"
    shutil.copytree(whole, other)
    shutil.rmtree(other / "checkpoints" / "step-00000008")
    (other / "status.json").unlink()
    settings["model"] = lora
    config = tiny.write_config(tmp_path / "other.yaml", values(other, **settings))
    ended = tiny.run_alone(config, "instruct")
    assert ended.returncode == 0, ended.stderr[-3000:]
    # Dropout draws differ on another number of ranks: the weights are the same, the losses alike.
    assert list(tiny.losses(other).values()) == pytest.approx(
        list(tiny.losses(whole).values()), rel=1e-2
    )
