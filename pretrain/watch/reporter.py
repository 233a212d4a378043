"""What a run tells of itself: metrics lines, status, progress, the report at its start."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from data_prep.config_file import to_yaml
from data_prep.files import write_atomically, write_json
from pretrain.config import RunConfig
from pretrain.ledger import Entry, as_json, write_ledger
from pretrain.run_folder import write_status
from pretrain.watch import display
from pretrain.watch.metrics import Metrics, last_lines, roll_back


class Reporter:
    """Rank 0's voice; on other ranks every method does nothing."""

    def __init__(self, config: RunConfig, steps: int, speaks: bool):
        self.config, self.folder, self.steps, self.speaks = config, config.run, steps, speaks
        self._metrics: Metrics | None = None
        self._display: display.Display | None = None

    def say(self, *lines: str) -> None:
        if self.speaks:
            for line in lines:
                display.say(line)

    def start(
        self, settings: dict[str, Any], ledger: Sequence[Entry], facts: dict[str, Any], step: int
    ) -> int:
        """Write down what the run is made with, and show it; returns how many metrics lines lay after `step`."""
        if not self.speaks:
            return 0
        with write_atomically(self.folder / "config.yaml") as partial:
            partial.write_text(to_yaml(self.config), encoding="utf-8")
        write_ledger(self.folder, ledger)
        write_json(self.folder / "deepspeed.json", settings)
        rolled_back = roll_back(self.folder, step)
        self._metrics = Metrics(
            self.folder, self.config.tracking, self.config.model_dump(mode="json")
        )
        display.console.print_json(data=settings)
        display.report(f"Run {self.folder}", facts)
        write_status(self.folder, "running", max(step, 0))
        return rolled_back

    def roll_back(self, step: int, event: dict[str, Any]) -> None:
        """Move the lines after `step` aside, and write what happened instead of them."""
        if self._metrics is not None:
            moved = self._metrics.roll_back(step)
            self._metrics.write({"step": step} | event | {"rolled_back": moved})

    @contextmanager
    def progress(self, step: int) -> Iterator[None]:
        """Show the steps as they are done."""
        if not self.speaks:
            yield
            return
        with display.training_display(self.folder.name, step, self.steps) as self._display:
            yield

    def told(self, step: int) -> set[str]:
        """The keys of all lines of `step`, the last one so far, on the rank that speaks."""
        if not self.speaks:
            return set()
        return {key for line in last_lines(self.folder) if line["step"] == step for key in line}

    def write(self, line: dict[str, Any]) -> None:
        """A line of metrics.jsonl; `step` is in it."""
        if self._metrics is not None:
            self._metrics.write(line)

    def step(self, line: dict[str, Any]) -> None:
        """What a step did, written and shown."""
        self.write(line)
        if self._display is not None:
            self._display.update(line["step"], line)

    def validation(self, step: int, results: dict[str, Any]) -> None:
        if results:
            self.write({"step": step, "validation": results})
            losses = "  ".join(f"{name} {result['loss']:.4f}" for name, result in results.items())
            self.say(f"step {step}  validation loss  {losses}")

    def tasks(self, line: dict[str, Any]) -> None:
        """Scores of lm-eval's tasks: {"step", "tasks": {task: {metric: value}}}."""
        if line:
            self.write(line)
            for task, scores in line["tasks"].items():
                told = "  ".join(f"{metric} {value:.4f}" for metric, value in scores.items())
                self.say(f"step {line['step']}  {task}  {told}")

    def ledger(self, ledger: Sequence[Entry], new: Sequence[Entry]) -> None:
        """Write the run's ledger down, and what is new in it among the metrics."""
        if self.speaks:
            write_ledger(self.folder, ledger)
            for entry in new:
                self.write(as_json(entry))

    def overflow(self, step: int, loss_scale: float, count: int) -> None:
        """fp16's loss scaling has left step `step` out, the `count`-th so far."""
        self.say(
            f"step {step}  the gradient overflowed in fp16: weights unchanged, loss scale now "
            f"{loss_scale:g} ({count} such steps so far)"
        )

    def sync(self) -> None:
        """Make what was written survive a power loss: no checkpoint without the lines that lead to it."""
        if self._metrics is not None:
            self._metrics.sync()

    def saved(self, step: int, name: str, seconds: float) -> None:
        self.write({"step": step, "event": "checkpoint", "seconds": seconds})
        if self.speaks:
            write_status(self.folder, "running", step)
        self.say(f"step {step}  checkpoint {name} ({seconds:.1f} s)")
        limit = self.config.timeout_minutes
        if 3 * seconds > limit * 60:
            self.say(
                f"warning: ranks wait for each other while saving, at most timeout_minutes ({limit:g}); raise it "
                f"to {math.ceil(3 * seconds / 60)}, three times what this took"
            )

    def finish(self, state: str, step: int, code: int, reason: str) -> None:
        self.sync()
        if self.speaks:
            write_status(self.folder, state, step, code, reason)
        told = f" by {reason}: start it again with the same command" if reason else ""
        self.say(f"{state} at step {step} of {self.steps}{told}")

    def close(self) -> None:
        """Let go of the metrics; Weights & Biases may take its time to send what is left."""
        if self._metrics is not None:
            self._metrics.close()
