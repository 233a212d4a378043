"""A run that stands still, with real processes: one of them stops, sleeps, or keeps the interpreter."""

import os
from pathlib import Path

import pytest

from pretrain.run_folder import read_status, write_status
from pretrain.slurm import verdict
from pretrain.watch.hang import HangWatch
from tests import ranks

# Three seconds without a beat; the other ranks have two to write their stacks.
WATCH = "HangWatch(Path(sys.argv[1]), rank, world, minutes=3 / 60, grace_s=2.0)"
IMPORTS = """
import ctypes, os, signal, sys, time
from pathlib import Path
from pretrain.watch.hang import HangWatch
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
"""
STEPS_TOGETHER = f"""{IMPORTS}
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
def stands_still():
    time.sleep(600)
with {WATCH} as watch:
    for step in range(1000):
        if step == 5 and sys.argv[2] == f"rank {{rank}} sleeps":
            stands_still()
        if step == 5 and sys.argv[2] == f"rank {{rank}} is stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        dist.all_reduce(torch.ones(1))
        watch.beat()
"""


def start(run: Path, program: str, case: str = "", world: int = 1) -> list[ranks.Rank]:
    return ranks.start(["-c", program, str(run), case], world)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run whose last checkpoint is that of step 40."""
    write_status(tmp_path, "running", 40)
    return tmp_path


def test_when_one_rank_sleeps_all_write_their_stacks_and_end_as_interrupted(run):
    both = start(run, STEPS_TOGETHER, "rank 1 sleeps", world=2)
    said = [rank.end(timeout_s=120) for rank in both]
    assert [rank.process.returncode for rank in both] == [75, 75]
    sleeper, waiting = (run / "stacks/rank-1.txt").read_text(), said[0]
    assert "in stands_still" in sleeper
    assert "in stands_still" in said[1]
    assert "in all_reduce" in waiting
    assert "in all_reduce" in (run / "stacks/rank-0.txt").read_text()
    status = read_status(run)
    assert (status["state"], status["step"], status["code"]) == ("interrupted", 40, 75)
    assert status["reason"] == f"no step within 0.05 minutes, the stacks are in {run / 'stacks'}"
    assert waiting.count("start it again with the same command") == 1
    assert "start it again" not in said[1]


@pytest.mark.parametrize("stopped", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_stopped_rank_is_named_by_those_that_live(run, stopped):
    both = start(run, STEPS_TOGETHER, f"rank {stopped} is stopped", world=2)
    try:
        lives = both[1 - stopped]
        said = lives.end(timeout_s=120)
        assert lives.process.returncode == 75
        status = read_status(run)
        assert (status["state"], status["step"], status["code"]) == ("interrupted", 40, 75)
        assert f"no stacks from ranks [{stopped}]: stopped or gone" in status["reason"]
        assert "in all_reduce" in said
    finally:
        both[stopped].process.kill()  # as the launcher does
        both[stopped].end()


def test_a_rank_whose_native_code_keeps_the_interpreter_writes_its_stack_and_ends(run):
    # PyDLL, unlike CDLL, does not let the interpreter go during the call.
    program = f"{IMPORTS}\nwith {WATCH}:\n    ctypes.PyDLL(None).sleep(600)"
    (rank,) = start(run, program)
    rank.end(timeout_s=60)
    assert rank.process.returncode == 1
    assert "most recent call first" in (run / "stacks/rank-0.txt").read_text()


@pytest.mark.long
def test_steps_that_are_done_and_pauses_end_nothing(run):
    program = f"""{IMPORTS}
with {WATCH} as watch:
    for _ in range(4):
        time.sleep(1)
        watch.beat()
    with watch.paused():
        time.sleep(6)
    time.sleep(1)
"""
    (rank,) = start(run, program)
    rank.end(timeout_s=60)
    assert rank.process.returncode == 0
    assert read_status(run)["state"] == "running"
    assert list((run / "stacks").iterdir()) == []


def test_without_a_limit_nothing_is_watched(run):
    threads = len(os.listdir("/proc/self/task"))
    with HangWatch(run, 0, 1, minutes=None) as watch:
        watch.beat()
        with watch.paused():
            pass
        assert len(os.listdir("/proc/self/task")) == threads
    assert not (run / "stacks").exists()


@pytest.mark.parametrize(
    ("reason_before", "step", "code"),
    [
        ("", 40, 75),
        ("SIGTERM", 40, 75),
        ("no step within 20 minutes", 50, 75),
        ("no step within 20 minutes", 40, 1),
    ],
)
def test_a_job_goes_back_into_the_queue_unless_it_hung_twice_at_one_step(reason_before, step, code):
    before = {"state": "interrupted", "step": 40, "reason": reason_before, "job": "17", "time": 1.0}
    reason = "no step within 20 minutes, the stacks are in runs/x/stacks"
    after = {"state": "interrupted", "step": step, "reason": reason, "job": "17", "time": 2.0}
    found, told = verdict(before, after, "17", srun_code=143)
    assert found == code, told
