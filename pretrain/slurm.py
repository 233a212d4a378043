"""A run as a Slurm job: what its ranks check at their start, and what the job script decides at its end.

    python -m pretrain.slurm before --config FILE ...   checks; prints the folder and status, for `after`
    python -m pretrain.slurm after BEFORE CODE          says how the run stands; 75: put the job back

launch/slurm/pretrain.sbatch calls both. No torch here: a mistake ends the job before a rank starts.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.config_file import load_config, split_command_line
from data_prep.errors import ConfigError, ProjectError
from pretrain.config import RunConfig
from pretrain.plan import make_plan
from pretrain.run_folder import read_status
from pretrain.watch import hang

REQUEUE = 75  # what an interrupted rank ends with, too


def check_tasks(environment: Mapping[str, str]) -> None:
    """Raise ConfigError where the tasks of a job step do not form one group of WORLD_SIZE ranks.

    So it is when a launcher that counts only its own ranks, or none at all, is started N times by
    srun: N copies would train in one folder. A task may be a rank, or a launcher of local ranks.
    """
    if (
        "SLURM_STEP_NUM_TASKS" not in environment
    ):  # not below srun; a batch script may do as it likes
        return
    tasks = int(environment["SLURM_STEP_NUM_TASKS"])
    # torchrun's name and deepspeed's.
    local = int(environment.get("LOCAL_WORLD_SIZE") or environment.get("LOCAL_SIZE") or 1)
    world = int(environment.get("WORLD_SIZE", "1"))
    if world != tasks * local:
        raise ConfigError(
            f"WORLD_SIZE: this rank belongs to a group of {world}, but srun started {tasks} tasks with "
            f"{local} rank(s) each, which would be copies of one run; submit launch/slurm/pretrain.sbatch, "
            "or start a launcher without srun (docs/slurm.md)"
        )


def verdict(
    before: dict[str, Any], after: dict[str, Any], job: str, srun_code: int
) -> tuple[int, str]:
    """(exit code of the job, how the run stands), from status.json before and after srun.

    A status that this start did not write proves nothing: an old `interrupted` would put the job back
    for ever. So would a time limit (SIGUSR1) that leaves no time for a single step, and a run that stands
    still again before its next checkpoint.
    """
    failed = srun_code or 1
    if after == before or after.get("job") != job:
        if srun_code == 0 and after.get("state") == "done":
            return 0, "was done before"
        return failed, "did not start"
    state, step = after["state"], after["step"]
    if state == "done":
        return 0, f"is done at step {step}"
    if state == "interrupted":
        told = f"is interrupted at step {step} by {after['reason']}"
        if after["reason"] == "SIGUSR1" and step <= before.get("step", 0):
            return 1, f"{told}, where it began: the time limit is too short"
        hung_before = before.get("reason", "").startswith(hang.REASON)
        if after["reason"].startswith(hang.REASON) and hung_before and step <= before["step"]:
            return 1, f"{told}, for the second time where it began"
        return REQUEUE, told
    if state == "running":
        return failed, f"died; its last checkpoint is at step {step}"
    return after["code"] or failed, f"failed: {after['reason']}"


def _before(arguments: list[str]) -> int:
    path, overrides = split_command_line(arguments)
    config = load_config(RunConfig, path, overrides)
    # Without --ntasks or --ntasks-per-node srun starts one task a node.
    make_plan(config, int(os.environ.get("SLURM_NTASKS") or os.environ["SLURM_NNODES"]))
    print(json.dumps({"run": str(config.run), "status": read_status(config.run)}))
    return 0


def _after(arguments: list[str]) -> int:
    before, job, srun_code = json.loads(arguments[0]), os.environ["SLURM_JOB_ID"], int(arguments[1])
    code, told = verdict(before["status"], read_status(Path(before["run"])), job, srun_code)
    print(f"job {job}: srun ended with {srun_code}; {before['run']} {told}", flush=True)
    return code


def main(arguments: list[str]) -> int:
    """Run `before` or `after`; a user's mistake is one line and its exit code."""
    try:
        return {"before": _before, "after": _after}[arguments[0]](arguments[1:])
    except ProjectError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
