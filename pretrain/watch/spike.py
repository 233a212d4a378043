"""When a step's loss or gradient norm is far outside its recent range, and which data to leave out then.

PaLM (arXiv:2204.02311, section 5.1) met some 20 loss spikes, each mended by going back to a checkpoint and
leaving out the batches around the spike. OLMo 2 (arXiv:2501.00656) counts as spikes what lies 7 standard
deviations from the mean of the last 1,000 steps; here median and median absolute deviation stand for them, which
one earlier outlier does not move, over fewer steps, and the bounds are wider, because each find costs the
minutes since the last checkpoint. No torch here.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from pretrain.config import Guard
from pretrain.ledger import BadRowGroup, Entry, SkipEntry

GUARD = "guard: "  # begins the reason of the guard's own entries; a person's say something else
TO_SIGMA = 1.4826  # median absolute deviation to the standard deviation of a normal distribution
# Least standard deviation of the loss, in nats. Sequences of 1,024 tokens differ by some 0.4, so a batch
# of 0.25M tokens, their mean over 256, by 0.025. Times guard.loss_deviations: a third of a nat is no spike.
LOSS_FLOOR = 0.03
# Least standard deviation of the gradient norm, as a part of its median. Times guard.gradient_deviations: a
# norm of 19 medians. Clipping takes care of less, and those that do harm reach a thousand (arXiv:2501.06842).
GRADIENT_FLOOR = 0.6
# The bound lies at least so many times as far from the median as the largest of the window: hard batches that
# come now and then, of another source say, move the median absolute deviation by nothing. The last steps do
# not count there, or a loss that climbs step by step would lift the bound before itself.
TAIL, CLIMB = 3.0, 8


class SpikeDetector:
    """Says of each step of a run whether it is a spike, by the steps before it.

    `phases` are the steps (completed ones) after which mixture or batch change: both quantities may jump
    there, so the range is taken anew. Before `guard.window` steps are known only NaN and infinity are spikes.
    What it says depends on losses and norms of the last `guard.window` steps alone.
    """

    def __init__(self, settings: Guard, phases: Iterable[int] = (), step: int = 0):
        self.settings = settings
        self._phases = frozenset(phases)
        self._step = step  # completed
        self._last: deque[tuple[float, float] | None] = deque(maxlen=settings.window)

    @classmethod
    def from_history(
        cls, settings: Guard, lines: Iterable[Mapping[str, Any]], phases: Iterable[int] = ()
    ) -> "SpikeDetector":
        """As it stands after the steps of metrics.jsonl's lines; those of other events are passed over."""
        detector = cls(settings, phases)
        for line in lines:
            if "gradient_norm" in line:
                detector._step = line["step"] - 1
                detector.add(line["loss"], line["gradient_norm"])
        return detector

    def look(self, loss: float, gradient_norm: float) -> str | None:
        """Why the next step is a spike, or None.

        A step that fp16's loss scaling has left out (an overflow) is none: do not ask, only `add` it.
        """
        values = {"loss": loss, "gradient_norm": gradient_norm}
        for name, value in values.items():
            if not math.isfinite(value):
                return f"{name} {value}"
        self._begin_phase()
        for name, (middle, bound) in self.ranges().items():
            if values[name] > bound:
                return (
                    f"{name} {values[name]:.4g}, of {self.settings.window} steps before it the median "
                    f"is {middle:.4g} and the bound {bound:.4g}"
                )
        return None

    def add(self, loss: float | None, gradient_norm: float | None) -> None:
        """Take the next step into the window; what is no number (None in a metrics line) holds its place."""
        self._begin_phase()
        self._step += 1
        values = (
            math.nan if loss is None else loss,
            math.nan if gradient_norm is None else gradient_norm,
        )
        self._last.append(values if all(map(math.isfinite, values)) else None)

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Of loss and gradient_norm: (median, largest value that is no spike); {} before `guard.window` steps."""
        seen = [values for values in self._last if values is not None]
        if len(self._last) < self.settings.window or len(seen) < self.settings.window / 2:
            return {}
        losses, norms = ([values[part] for values in seen] for part in (0, 1))
        ranges = {"loss": _range(losses, self.settings.loss_deviations, LOSS_FLOOR)}
        if (norm := median(norms)) > 0:  # most batches may have been masked whole
            ranges["gradient_norm"] = _range(
                norms, self.settings.gradient_deviations, GRADIENT_FLOOR * norm
            )
        return ranges

    def _begin_phase(self) -> None:
        if self._step in self._phases:
            self._last.clear()


def _range(values: Sequence[float], deviations: float, floor: float) -> tuple[float, float]:
    """(median, largest value that is no spike) of values, oldest first."""
    middle = median(values)
    sigma = max(TO_SIGMA * median(abs(value - middle) for value in values), floor)
    tail = max(values[: max(1, len(values) - CLIMB)]) - middle
    return middle, middle + max(deviations * sigma, TAIL * tail)


def data_to_skip(
    spike_step: int, checkpoint_step: int, settings: Guard, ledger: Sequence[Entry], why: str
) -> SkipEntry:
    """The ledger's entry that leaves the data of `spike_step`, and of guard.skip_steps - 1 before it, out.

    `spike_step` is the step's number as in metrics.jsonl; the run goes on from the checkpoint after
    `checkpoint_step` steps, and what was trained on before stays. Nor does a skip reach over an entry of the
    ledger: it counts in steps of one batch and one mixture.
    """
    borders = [entry.step for entry in ledger if not isinstance(entry, BadRowGroup)]
    first = max(
        checkpoint_step,
        spike_step - settings.skip_steps,
        *(step for step in borders if step < spike_step),
    )
    return SkipEntry(first, spike_step - first, f"{GUARD}step {spike_step}: {why}")


def rollbacks(ledger: Iterable[Entry]) -> list[SkipEntry]:
    """The entries that the guard made; a person who takes one out gives the run another attempt."""
    return [
        entry for entry in ledger if isinstance(entry, SkipEntry) and entry.reason.startswith(GUARD)
    ]
