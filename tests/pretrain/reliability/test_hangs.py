"""A rank that stands still: the others say where they are, and the next start goes on."""

import os
import signal

import pytest

from tests import runs, tiny

pytestmark = pytest.mark.long


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_rank_ends_the_run_with_the_stacks_of_the_others(
    rank, uninterrupted, values, tmp_path
):
    run = tmp_path / "run"
    config = tiny.write_config(tmp_path / "run.yaml", values(run, guard={"hang_minutes": 0.25}))
    process = runs.start(config)
    tiny.wait_for(lambda: runs.last_step(run) >= 7)
    stopped = tiny.rank_processes(config)[rank]
    os.kill(stopped, signal.SIGSTOP)
    tiny.wait_for(lambda: len(tiny.rank_processes(config)) < 2 or process.poll() is not None, 120)
    if stopped in tiny.rank_processes(config):  # launchers kill it; where none is left, we do
        os.kill(stopped, signal.SIGKILL)
    runs.end(process, config)
    stacks = (run / f"stacks/rank-{1 - rank}.txt").read_text()
    assert "trainer.py" in stacks
    if rank == 1:
        told = runs.status(run)
        assert (told["state"], told["code"]) == ("interrupted", 75)
        assert "no step" in told["reason"]
    ended = tiny.launch(config)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert tiny.losses(run) == tiny.losses(uninterrupted)
