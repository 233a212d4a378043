"""launch/pretrain.py under torch's profiler; the folder for the trace stands in PROFILE_FOLDER.

deepspeed --module benchmarks.training.profiled_pretrain --config FILE
"""

import os
import sys
from typing import Any

from benchmarks.training.profiler import step_profiler
from pretrain.command import end, main
from pretrain.engine.engine import Engine


def watch_steps(folder: str) -> None:
    """Have the profiler told of every step's end."""
    original = Engine.train_step
    profiler: list[Any] = []

    def train_step(self: Engine, *given: Any, **named: Any) -> Any:
        if not profiler:
            profiler.append(step_profiler(folder))
        result = original(self, *given, **named)
        profiler[0].step()
        return result

    Engine.train_step = train_step  # type: ignore[method-assign]


if __name__ == "__main__":
    if os.environ.get("RANK", "0") == "0":
        watch_steps(os.environ["PROFILE_FOLDER"])
    end(main("pretrain", sys.argv[1:]))
