"""What an export is made of, looked at before torch loads."""

from pathlib import Path

from data_prep.config_file import load_config
from data_prep.errors import ConfigError, DataError
from pretrain.checkpoints.names import name_of, saved_steps
from pretrain.config import RunConfig
from pretrain.export.config import ExportConfig


def source_of(config: ExportConfig) -> tuple[RunConfig, Path | None]:
    """The run's config, and the checkpoint's folder (None: the model before training).

    Raises ConfigError or DataError where the run or the step is not there, or the output is taken.
    """
    if config.output.is_file():
        raise ConfigError(f"output: {config.output} is a file; name a new folder")
    if config.output.is_dir() and any(config.output.iterdir()):
        raise ConfigError(f"output: {config.output} is not empty; name a new folder, or remove it")
    if not (config.run / "config.yaml").exists():
        raise ConfigError(
            f"run: {config.run} holds no config.yaml; give the folder of a training run"
        )
    run = load_config(RunConfig, config.run / "config.yaml")
    run = run.model_copy(update={"run": config.run})  # which may have been moved
    if config.step == 0:
        return run, None
    folder = config.run / "checkpoints"
    steps = saved_steps(folder)
    if not steps:
        raise DataError(f"run: {config.run} has no whole checkpoint yet")
    step = steps[0] if config.step is None else config.step
    if step not in steps:
        raise ConfigError(f"step: found {step}, expected one of {', '.join(map(str, steps))}")
    return run, folder / name_of(step)
