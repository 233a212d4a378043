"""Who trains, and how each of them is started."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.training.cases import Case
from benchmarks.training.job import Job, Result
from benchmarks.training.launching import deepspeed_command, environment, run_job, run_ours

OURS, BARE, TRAINER, PLAIN = (
    "launch/pretrain.py",
    "bare DeepSpeed loop",
    "Hugging Face Trainer with DeepSpeed",
    "plain PyTorch, one process",
)
PACKAGES = {
    OURS: "biomed-pretrain",
    BARE: "deepspeed",
    TRAINER: "transformers",
    PLAIN: "torch",
}
Run = Callable[[Path, Path | None], Result]  # folder for its files, folder for a trace


@dataclass(frozen=True)
class Prepared:
    """A case with what its contenders read."""

    case: Case
    config: Path  # of our run
    job: Job
    on_card: bool


def contenders(prepared: Prepared, with_bare: bool) -> dict[str, Run]:
    """By name, in the order of the turns, ours first."""
    found: dict[str, Run] = {OURS: partial(_ours, prepared)}
    if with_bare:
        found[BARE] = partial(_peer, prepared, "bare_deepspeed")
    found[TRAINER] = partial(_peer, prepared, "huggingface_trainer")
    found[PLAIN] = partial(_plain, prepared)
    return found


def _ours(prepared: Prepared, folder: Path, trace: Path | None) -> Result:
    script = ["launch/pretrain.py"]
    if trace:
        script = ["--module", "benchmarks.training.profiled_pretrain"]
    run = folder / "run"
    command = deepspeed_command(
        prepared.case.ranks, *script, "--config", str(prepared.config), "--run", str(run)
    )
    environ = environment(1, prepared.on_card, PROFILE_FOLDER=str(trace or ""))
    return run_ours(command, environ, run, prepared.job.steps)


def _peer(prepared: Prepared, module: str, folder: Path, trace: Path | None) -> Result:
    job = _write_job(prepared, folder, trace)
    script = ["--no_local_rank", "--module", f"benchmarks.training.{module}", str(job)]
    command = deepspeed_command(prepared.case.ranks, *script)
    return run_job(command, environment(1, prepared.on_card), folder / "result.json")


def _plain(prepared: Prepared, folder: Path, trace: Path | None) -> Result:
    job = _write_job(prepared, folder, trace)
    command = [sys.executable, "-m", "benchmarks.training.plain_torch", str(job)]
    # As many threads as all ranks of the others have together.
    environ = environment(prepared.case.ranks, prepared.on_card)
    return run_job(command, environ, folder / "result.json")


def _write_job(prepared: Prepared, folder: Path, trace: Path | None) -> Path:
    folder.mkdir()
    profile = None if trace is None else str(trace)
    job = replace(prepared.job, result=str(folder / "result.json"), profile=profile)
    return job.write(folder / "job.json")
