"""What checkpoints are called, and which of them are kept. No torch here."""

from collections.abc import Iterable
from pathlib import Path

MANIFEST = "manifest.json"  # written last: sizes and SHA-256 of the other files
STATE = "state.json"


def name_of(step: int) -> str:
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """The step that a checkpoint's folder is called after; None for another name."""
    digits = name.removeprefix("step-")
    return (
        int(digits) if name == f"step-{digits}" and len(digits) == 8 and digits.isdigit() else None
    )


def newest_first(names: Iterable[str]) -> list[int]:
    """The steps in folder names, of which some may be no checkpoint's."""
    steps = (step_of(name) for name in names)
    return sorted((step for step in steps if step is not None), reverse=True)


def named_steps(folder: Path) -> list[int]:
    """Steps of the folders that are called like checkpoints, newest first."""
    return newest_first(path.name for path in folder.iterdir()) if folder.is_dir() else []


def saved_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in `folder` (RUN/checkpoints) that have a manifest, newest first."""
    return [step for step in named_steps(folder) if (folder / name_of(step) / MANIFEST).exists()]


def to_remove(steps: Iterable[int], keep: int, keep_every: int | None) -> list[int]:
    """Those of `steps` that are neither among the newest `keep` nor a multiple of `keep_every`, newest first."""
    old = sorted(steps, reverse=True)[keep:]
    return [step for step in old if keep_every is None or step % keep_every]
