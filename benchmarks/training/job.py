"""What a contender is told, and what it tells: two JSON files."""

import json
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """A contender's orders: the same for all of them but for the result's file."""

    model: dict[str, Any]  # transformers' keys, vocab_size among them
    precision: str
    deepspeed: dict[str, Any]
    optimizer: dict[str, Any]  # as in the run's config
    clipping: float
    seed: int
    steps: int
    activation_checkpointing: bool
    batches: str  # folder of inputs.save_batches
    result: str
    profile: str | None = None  # folder for a trace of two late steps

    @classmethod
    def read(cls, path: str) -> "Job":
        return cls(**json.loads(Path(path).read_text()))

    def write(self, path: Path) -> Path:
        path.write_text(json.dumps(asdict(self)))
        return path


@dataclass(frozen=True)
class Result:
    """What a process did: when each step ended, and the loss of each."""

    times: list[float]  # unix seconds
    losses: list[float]
    peak_gb: float  # of the card's memory, as torch's allocator gave it out; without a card, of the host's
    parts: dict[str, list[float]] = field(default_factory=dict)  # seconds of each step by part

    @classmethod
    def read(cls, path: Path) -> "Result":
        return cls(**json.loads(path.read_text()))

    def write(self, path: str) -> None:
        Path(path).write_text(json.dumps(asdict(self)))

    def step_seconds(self, warm_up: int) -> list[float]:
        """From the end of one step to the end of the next, without the first `warm_up` steps."""
        return [later - earlier for earlier, later in pairwise(self.times[warm_up - 1 :])]
