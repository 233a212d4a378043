"""What a run does about spikes: recognises them, keeps a record of the documents, says what to leave out."""

from collections import deque
from collections.abc import Sequence
from threading import Thread
from typing import TYPE_CHECKING, Any

from data_prep.errors import ProjectError
from pretrain import distributed
from pretrain.config import RunConfig
from pretrain.ledger import Entry, PhaseEntry, SkipEntry
from pretrain.plan import Plan
from pretrain.watch.metrics import read_metrics
from pretrain.watch.spike import SpikeDetector, data_to_skip, rollbacks
from pretrain.watch.spike_record import save_spike

if TYPE_CHECKING:
    from pretrain.engine.engine import StepResult


class SpikeGuard:
    """One on each rank; all say the same, since all see the same losses and norms. The first writes."""

    def __init__(self, config: RunConfig, first: bool):
        self.config, self.first = config, first
        self._records: list[Thread] = []

    def begin(self, ledger: Sequence[Entry]) -> None:
        """Take the range from the run's own metrics; called by all ranks at once, at a start or a roll-back."""
        lines = distributed.from_first(self._history() if self.first else None)
        phases = [entry.step for entry in ledger if isinstance(entry, PhaseEntry)]
        self._detector = SpikeDetector.from_history(self.config.guard, lines, phases)

    def _history(self) -> list[dict[str, Any]]:
        """Of the last steps, what a spike is told by."""
        steps = (line for line in read_metrics(self.config.run) if "gradient_norm" in line)
        keys = ("step", "loss", "gradient_norm")
        last = deque(steps, maxlen=self.config.guard.window)
        return [{key: line[key] for key in keys} for line in last]

    def judge(self, step: int, result: "StepResult") -> str | None:
        """Why step `step` must not stand; else None, and it is one more to judge by."""
        why = None if result.overflow else self._fault(step, result)
        if why is None:
            self._detector.add(result.loss, result.gradient_norm)
        return why

    def _fault(self, step: int, result: "StepResult") -> str | None:
        if self.config.guard.spikes:
            return self._detector.look(result.loss, result.gradient_norm)
        if not result.finite:
            raise ProjectError(
                f"step {step}: the loss is {result.loss}, the gradient norm {result.gradient_norm}; "
                "the weights were not changed by it. Lower optimizer.learning_rate or lengthen "
                "schedule.warmup_steps, and start again, or let guard.spikes leave the batch out"
            )
        return None

    def leave_out(self, step: int, why: str, saved_step: int, plan: Plan) -> SkipEntry:
        """Record the spike of `step`; what the ledger is to leave out after going back to `saved_step`.

        Raises ProjectError where the run has gone back often enough.
        """
        guard, run = self.config.guard, self.config.run
        if self.first:
            facts = {"why": why, "range": self._detector.ranges(), "checkpoint": saved_step}
            self._records.append(save_spike(run, step, facts, plan.order, plan.train))
        past = len(rollbacks(plan.ledger))
        if past >= guard.max_rollbacks:
            self.close()
            raise ProjectError(
                f"step {step}: {why}; guard.max_rollbacks: {guard.max_rollbacks} were allowed, and {past} "
                f"are in ledger.jsonl; {run}/spikes has the documents. Lower optimizer.learning_rate, look at "
                "the data, or raise guard.max_rollbacks, and start again from the last checkpoint"
            )
        return data_to_skip(step, max(saved_step, 0), guard, plan.ledger, why)

    def close(self) -> None:
        """Wait for the records that are still being written."""
        for thread in self._records:
            thread.join()
