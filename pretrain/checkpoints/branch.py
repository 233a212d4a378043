"""Beginning with another run's checkpoint, weights, moments and step counters: a branch, as annealing needs.

The source is only read: it may still go on, on any number of ranks and with any ZeRO stage. Once the new
run has saved, the source is needed only to export what it began with. Steps, schedule, data and seed are the new run's own.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.config_file import load_config
from data_prep.errors import ConfigError, DataError
from data_prep.files import sha256_file
from pretrain.checkpoints.names import MANIFEST, name_of, saved_steps, step_of
from pretrain.config import Branch, RunConfig

if TYPE_CHECKING:
    from pretrain.distributed import Ranks


def check_branch(config: RunConfig) -> None:
    """Raise ConfigError or DataError where the run cannot begin with what model.branch names.

    Nothing is asked of the source where the run has checkpoints of its own. No torch.
    """
    branch = config.model.branch
    if branch is None or saved_steps(config.run / "checkpoints"):
        return
    if branch.run.resolve() == config.run.resolve():
        raise ConfigError("model.branch.run: found the run's own folder, expected another run's")
    if not (branch.run / "config.yaml").exists():
        raise ConfigError(
            f"model.branch.run: {branch.run} holds no config.yaml; give the folder of a training run"
        )
    source = load_config(RunConfig, branch.run / "config.yaml")
    for key in ("lora", "freeze"):
        if getattr(source.model, key):
            raise ConfigError(
                f"model.branch.run: {branch.run} trains part of its model (model.{key}), and its checkpoints "
                "hold that part alone; export it with launch/export.py and give the folder as model.path"
            )
    if source.optimizer.name != config.optimizer.name:
        raise ConfigError(
            f"optimizer.name: found {config.optimizer.name}, {branch.run} has the moments of "
            f"{source.optimizer.name}; choose that, or export it and give the folder as model.path"
        )
    _candidates(branch)


def _candidates(branch: Branch) -> list[int]:
    """The steps that may be begun with, best first; ConfigError where the one named is none, DataError
    where there is none yet."""
    steps = saved_steps(branch.run / "checkpoints")
    wanted = [step for step in steps if branch.step in (None, step)]
    if not wanted:
        there = f"there are {', '.join(map(str, reversed(steps)))}" if steps else "it has none yet"
        of_step = f" of step {branch.step}" if branch.step else ""
        fault = ConfigError if steps else DataError
        raise fault(f"model.branch: {branch.run} has no whole checkpoint{of_step}; {there}")
    return wanted


def find_source(branch: Branch, ranks: "Ranks") -> tuple[Path, list[str]]:
    """The checkpoint to begin with, every file checked, and a line for each newer damaged one.

    Called by all ranks together; as check_branch, and DataError where none is whole.
    """
    from pretrain import distributed
    from pretrain.checkpoints.checkpoint import faults

    said: list[str] = []
    for step in distributed.from_first(_candidates(branch) if ranks.first else None):
        path = branch.run / "checkpoints" / name_of(step)
        found = faults(path, ranks)
        if not found:
            return path, said
        said.append(f"model.branch: {path} is not whole and is passed over: {found[0]}")
    raise DataError(f"{said[-1]}; name the step of another one")


def identity(path: Path) -> dict[str, Any]:
    """What a run records of the checkpoint it began with, to be compared when it goes on."""
    return {"step": step_of(path.name), "manifest": sha256_file(path / MANIFEST)}


def identity_at_resume(branch: Branch, recorded: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the config names now: `recorded` itself where the source no longer has that checkpoint."""
    if recorded is None or (branch.step is not None and branch.step != recorded["step"]):
        return {"step": branch.step}
    path = branch.run / "checkpoints" / name_of(recorded["step"])
    return identity(path) if (path / MANIFEST).exists() else recorded


def model_folder(config: RunConfig) -> Path:
    """Where transformers' config of a branch's model is: the run's own once it has saved."""
    assert config.model.branch is not None
    own = saved_steps(config.run / "checkpoints")
    return (config.run if own else config.model.branch.run) / "model"
