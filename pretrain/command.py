"""What `launch/pretrain.py` and `launch/instruct.py` do: read, check, train, and end with the right code.

Exit codes of a rank: 0 done, 1 failed, 2 wrong arguments or config, 75 interrupted with a checkpoint.
Nothing heavy is imported before the config has been checked.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from data_prep.config_file import load_config, split_command_line
from data_prep.errors import ConfigError, exit_code, explain
from data_prep.files import write_json
from data_prep.lock import FolderLock
from pretrain.config import RunConfig, decisive_settings
from pretrain.interruption import Interruption
from pretrain.quiet_libraries import prepare_libraries
from pretrain.run_folder import (
    LOCK_WAIT_S,
    STATUS,
    differences,
    read_status,
    refuse_changes,
    write_status,
)

if TYPE_CHECKING:
    from pretrain.plan import Plan

USAGE = "usage: deepspeed launch/{name}.py --config FILE [--section.key value ...]"


def main(name: str, arguments: list[str]) -> int:
    """Run one rank; `arguments` are the command line's, the launcher's --local_rank among them."""
    if "--help" in arguments or "-h" in arguments:
        print(USAGE.format(name=name))
        return 0
    rank = int(os.environ.get("RANK", "0"))
    lock: FolderLock | None = None
    config: RunConfig | None = None
    status: dict[str, Any] = {}
    try:
        path, overrides = split_command_line(arguments)
        if path is None:
            raise ConfigError(f"--config is missing; {USAGE.format(name=name)}")
        config = load_config(RunConfig, path, overrides)
        prepare_libraries()
        if config.model.path is None or Path(config.model.path).is_dir():
            names_hub = config.tasks is not None and config.tasks.online
            os.environ.setdefault("HF_HUB_OFFLINE", str(int(not names_hub)))
        if config.tasks and not config.tasks.online:
            os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
        interruption = Interruption()
        interruption.install()
        from pretrain import slurm
        from pretrain.checkpoints.branch import check_branch
        from pretrain.plan import make_plan

        slurm.check_tasks(os.environ)
        check_branch(config)
        plan = make_plan(config, int(os.environ.get("WORLD_SIZE", "1")))
        status = read_status(config.run)
        if status.get("state") == "done" and status["step"] >= plan.steps:
            _check_unchanged(config, plan)
            if rank == 0:
                done = f"{config.run} is finished: {status['step']} steps are done"
                print(done, file=sys.stderr)
            return 0
        if rank == 0:
            lock = FolderLock(config.run, "run")
            lock.acquire(LOCK_WAIT_S)
            status = read_status(config.run)  # of whoever held it meanwhile
            write_status(config.run, "running", status.get("step", 0))
        if config.tasks:
            from pretrain.scoring.task_scores import check_tasks

            check_tasks(config.tasks)
        from pretrain import distributed
        from pretrain.trainer import train

        ranks = distributed.Ranks.from_environment(config.training.sequence_parallel)
        return train(config, plan, ranks, interruption)
    except Exception as error:
        message = _explain(error)
        if message and _first_to_say(message):
            print(message, file=sys.stderr, flush=True)
        if config is not None and lock is not None and lock.held:
            _record_failure(config, error, message, status)
        if message is None:
            raise
        return exit_code(error)


def end(code: int) -> NoReturn:
    """End the process at once: the process group's threads outlive it, and while Python shuts down one of
    them now and then aborts a run that has done all it had to (seen with gloo, torch 2.13)."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _check_unchanged(config: RunConfig, plan: "Plan") -> None:
    """Raise ConfigError where a finished run would be taken for one with other settings."""
    from pretrain.plan import make_plan

    if config.accept_changes:
        return
    saved = load_config(RunConfig, config.run / "config.yaml")
    saved = saved.model_copy(update={"run": config.run})  # which may have been moved
    ranks = saved.training.sequence_parallel  # the fewest that it runs on
    before = decisive_settings(saved) | make_plan(saved, ranks).identity(plan.steps)
    now = decisive_settings(config) | plan.identity(plan.steps)
    refuse_changes(differences(before, now), config.run)


def _explain(error: Exception) -> str | None:
    """What to tell, with what only training meets: peers that are gone, attention that is not there."""
    told = explain(error)
    if told is not None:
        return told
    text = str(error)
    if isinstance(error, RuntimeError) and (
        type(error).__name__.startswith("Dist") or "gloo" in text or "Connection reset" in text
    ):
        if "EADDRINUSE" in text:
            port = os.environ.get("MASTER_PORT", "29500")
            return (
                f"the process group: port {port} is taken, by another run on this machine or by what is left of one; "
                "give another: deepspeed --master_port PORT, torchrun --master-port PORT, or MASTER_PORT=PORT"
            )
        first = text.splitlines()[0]
        return f"the process group failed ({first}); if another rank ended, its message says why"
    if isinstance(error, ImportError) and "flash" in text:
        return f"model.implementation: {' '.join(text.split())}"
    return None


def _record_failure(
    config: RunConfig, error: Exception, message: str | None, before: dict[str, Any]
) -> None:
    """Write down how the start has failed; a finished run that it added nothing to keeps its status."""
    # A full disk must not hide what has been said.
    with contextlib.suppress(OSError):
        step = read_status(config.run).get("step", 0)
        if before.get("state") == "done" and step == before["step"]:
            write_json(
                config.run / STATUS, before
            )  # as it was: a job's script sees that it did not start
            return
        reason = message or f"{type(error).__name__}: {error}"
        write_status(config.run, "failed", step, exit_code(error), reason)


def _first_to_say(message: str) -> bool:
    """Whether no other rank has said this yet: all ranks meet most errors, one of them meets some."""
    if "torch.distributed" in sys.modules:
        from pretrain.distributed import claim

        return claim(message)
    return int(os.environ.get("LOCAL_RANK", "0")) == 0
