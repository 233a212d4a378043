"""What a Slurm job decides from the environment of its tasks and from status.json."""

import pytest

from data_prep.errors import ConfigError
from pretrain.slurm import check_tasks, verdict

JOB = "17"


def status(state: str, step: int, code: int | None = None, reason: str = "", job: str = JOB):
    return {"state": state, "step": step, "code": code, "reason": reason, "job": job, "time": 2.0}


STOPPED_BEFORE = status("interrupted", 50, 75, "SIGUSR1") | {"time": 1.0}


@pytest.mark.parametrize(
    "environment",
    [
        {"WORLD_SIZE": "4"},  # no Slurm
        # A batch script of a job with 8 tasks that starts one launcher itself, without srun.
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "WORLD_SIZE": "8", "LOCAL_SIZE": "8"},
        {"SLURM_STEP_NUM_TASKS": "16", "WORLD_SIZE": "16"},  # pretrain.sbatch
        {"SLURM_STEP_NUM_TASKS": "1", "WORLD_SIZE": "8", "LOCAL_SIZE": "8"},  # one deepspeed
        {"SLURM_STEP_NUM_TASKS": "2", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"},  # torchrun
        {"SLURM_STEP_NUM_TASKS": "1"},  # srun --pty, one process
    ],
)
def test_tasks_that_form_one_group_may_train(environment):
    check_tasks(environment)


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_STEP_NUM_TASKS": "2"},  # srun python, nothing set
        {"SLURM_STEP_NUM_TASKS": "2", "WORLD_SIZE": "2", "LOCAL_SIZE": "2"},  # srun -n 2 deepspeed
        {"SLURM_STEP_NUM_TASKS": "4", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"},
    ],
)
def test_tasks_that_would_be_copies_of_one_run_are_refused(environment):
    tasks = environment["SLURM_STEP_NUM_TASKS"]
    with pytest.raises(ConfigError, match=f"WORLD_SIZE: .* srun started {tasks} tasks .* copies"):
        check_tasks(environment)


@pytest.mark.parametrize(
    ("before", "after", "srun_code", "code", "told"),
    [
        ({}, status("done", 100, 0), 0, 0, "done at step 100"),
        # A rank that a late signal killed in its last moments changes nothing.
        ({}, status("done", 100, 0), 138, 0, "done at step 100"),
        (status("done", 100), status("done", 100), 0, 0, "was done before"),
        (status("done", 100), status("done", 100), 1, 1, "did not start"),
        ({}, status("interrupted", 50, 75, "SIGUSR1"), 143, 75, "step 50 by SIGUSR1"),
        (STOPPED_BEFORE, status("interrupted", 60, 75, "SIGUSR1"), 75, 75, "step 60"),
        (STOPPED_BEFORE, status("interrupted", 50, 75, "SIGUSR1"), 75, 1, "limit is too short"),
        # A job that is preempted before its first step has done nothing wrong.
        (STOPPED_BEFORE, status("interrupted", 50, 75, "SIGTERM"), 75, 75, "step 50"),
        (STOPPED_BEFORE, STOPPED_BEFORE, 2, 2, "did not start"),
        (STOPPED_BEFORE, status("interrupted", 90, 75, "SIGUSR1", "18"), 1, 1, "did not start"),
        ({}, {}, 0, 1, "did not start"),
        ({}, status("running", 40), 137, 137, "died; its last checkpoint is at step 40"),
        ({}, status("failed", 40, 1, "no space"), 137, 1, "failed: no space"),
    ],
)
def test_a_job_ends_as_its_run_did(before, after, srun_code, code, told):
    found, text = verdict(before, after, JOB, srun_code)
    assert (found, told in text) == (code, True), text
