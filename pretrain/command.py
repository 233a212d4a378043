"""What `launch/pretrain.py` and `launch/instruct.py` do: read, check, train, and end with the right code.

Exit codes of a rank: 0 done, 1 failed, 2 wrong arguments or config, 75 interrupted with a checkpoint.
Nothing heavy is imported before the config has been checked.
"""

import contextlib
import errno
import logging
import os
import sys
import warnings
from pathlib import Path

from data_prep.config_file import load_config, split_command_line
from data_prep.errors import ConfigError, ProjectError
from pretrain.config import RunConfig
from pretrain.interruption import Interruption
from pretrain.run_folder import RunLock, read_status, write_status

USAGE = "usage: deepspeed launch/{name}.py --config FILE [--section.key value ...]"


def main(name: str, arguments: list[str]) -> int:
    """Run one rank; `arguments` are the command line's, the launcher's --local_rank among them."""
    if "--help" in arguments or "-h" in arguments:
        print(USAGE.format(name=name))
        return 0
    rank = int(os.environ.get("RANK", "0"))
    lock: RunLock | None = None
    config: RunConfig | None = None
    try:
        path, overrides = split_command_line(arguments)
        if path is None:
            raise ConfigError(f"--config is missing; {USAGE.format(name=name)}")
        config = load_config(RunConfig, path, overrides)
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        if config.model.path is None or Path(config.model.path).is_dir():
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
        _quieten()
        interruption = Interruption()
        interruption.install()
        from pretrain.plan import make_plan

        plan = make_plan(config, int(os.environ.get("WORLD_SIZE", "1")))
        status = read_status(config.run)
        if status.get("state") == "done" and status["step"] >= plan.steps:
            _say(rank, f"{config.run} is finished: {status['step']} steps are done")
            return 0
        if rank == 0:
            lock = RunLock(config.run)
            lock.acquire()
        from pretrain import distributed
        from pretrain.trainer import train

        return train(config, plan, distributed.Ranks.from_environment(), interruption)
    except ProjectError as error:
        _fail(rank, config, lock, error.exit_code, str(error))
        return error.exit_code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            _fail(rank, config, lock, 1, f"{type(error).__name__}: {error}", quiet=True)
            raise
        message = f"{error.filename or (config and config.run)}: {error.strerror}; free space and start again"
        _fail(rank, config, lock, 1, message)
        return 1
    except RuntimeError as error:
        if not _peer_is_gone(error):
            _fail(rank, config, lock, 1, f"{type(error).__name__}: {error}", quiet=True)
            raise
        _fail(rank, config, lock, 1, "another rank ended; its message says why")
        return 1
    except Exception as error:
        _fail(rank, config, lock, 1, f"{type(error).__name__}: {error}", quiet=True)
        raise


def _quieten() -> None:
    """Leave out what libraries say on every rank and nobody can act on."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch|transformers|peft")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)


def _peer_is_gone(error: RuntimeError) -> bool:
    text = str(error)
    return type(error).__name__.startswith("Dist") or "gloo" in text or "Connection reset" in text


def _fail(
    rank: int,
    config: RunConfig | None,
    lock: RunLock | None,
    code: int,
    message: str,
    quiet: bool = False,
) -> None:
    """Say it once over all ranks, and leave it in status.json if this process owns the run."""
    if not quiet and _first_to_say(rank, message):
        _say(0, message)
    if config is not None and lock is not None and lock.held:
        # A full disk must not hide what has been said.
        with contextlib.suppress(OSError):
            status = read_status(config.run)
            write_status(config.run, "failed", status.get("step", 0), code, message)


def _first_to_say(rank: int, message: str) -> bool:
    """Whether no other rank has said this yet: all ranks meet most errors, one of them meets some."""
    if "torch.distributed" in sys.modules:
        from pretrain.distributed import claim

        return claim(message, rank)
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def _say(rank: int, message: str) -> None:
    if rank == 0:
        print(message, file=sys.stderr, flush=True)
