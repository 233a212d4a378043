"""A run cut at the entries of its ledger: which sequences of which mixture form a step.

The sequences of a run go through the schedule of a mixture (mixture.py) one after another, `global_batch`
of them a step. An entry begins a new segment:

- another global batch goes on where the schedule stands;
- other weights begin their own schedule; each source goes on with the row after its last one, so that
  every row still comes exactly once in each of its source's epochs;
- a skip moves on in the schedule by the sequences of so many steps of the batch that then holds. They
  count as read, and no step has them.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_prep.errors import ConfigError
from pretrain.ledger import BadRowGroup, Entry, PhaseEntry, SkipEntry
from pretrain.order.mixture import Mixture


@dataclass(frozen=True)
class Segment:
    """Steps from `first` on, until the next segment, that go through one schedule without a gap."""

    first: int
    global_batch: int
    mixture: Mixture
    place: int  # in the mixture's schedule, of step `first`
    before: np.ndarray  # (sources,) int64: sequences of each source before the schedule began

    def place_of(self, step: int) -> int:
        """The place in the schedule at which a step begins."""
        return self.place + (step - self.first) * self.global_batch

    def counts(self, step: int) -> np.ndarray:
        """Sequences of each source before a step, the skipped ones included: (sources,) int64."""
        return self.before + self.mixture.counts(self.place_of(step))

    def step_of(self, source: int, ordinal: int) -> int:
        """The step with the source's sequence number `ordinal`, if this segment never ended."""
        place = self.mixture.position(source, ordinal - int(self.before[source]))
        return self.first + (place - self.place) // self.global_batch


def cut_into_segments(
    names: Sequence[str], weights: Sequence[int], global_batch: int, ledger: Sequence[Entry]
) -> list[Segment]:
    """The run's segments in order, the first from step 0, each of a step at least but for the last.

    At one step phases hold before skips. Raises ConfigError naming the entry that cannot be applied.
    """
    _check_steps(ledger)
    nothing = np.zeros(len(names), dtype=np.int64)
    segments = [Segment(0, global_batch, Mixture(weights), 0, nothing)]
    changes = [entry for entry in ledger if not isinstance(entry, BadRowGroup)]
    for entry in sorted(changes, key=lambda entry: (entry.step, isinstance(entry, SkipEntry))):
        last = segments[-1]
        now = replace(last, first=entry.step, place=last.place_of(entry.step))
        if isinstance(entry, SkipEntry):
            if entry.steps < 1:
                raise ConfigError(
                    f"{_named(entry)} passes over {entry.steps} steps; expected at least 1"
                )
            now = replace(now, place=now.place + entry.steps * now.global_batch)
        else:
            now = _phase(names, now, entry)
        if now.first == last.first:
            segments.pop()
        segments.append(now)
    return segments


def _phase(names: Sequence[str], segment: Segment, entry: PhaseEntry) -> Segment:
    """The segment with the entry's weights and batch."""
    if entry.global_batch is not None:
        if entry.global_batch < 1:
            raise ConfigError(
                f"{_named(entry)} has global_batch {entry.global_batch}; expected at least 1"
            )
        segment = replace(segment, global_batch=entry.global_batch)
    if entry.weights is None:
        return segment
    for name in entry.weights:
        check_source(name, names, entry)
    try:
        mixture = Mixture([entry.weights.get(name, 0) for name in names])
    except ConfigError as error:
        raise ConfigError(f"{_named(entry)}: {error}") from error
    if mixture.weights == segment.mixture.weights:
        return segment
    return replace(segment, mixture=mixture, place=0, before=segment.counts(segment.first))


def check_source(name: str, names: Sequence[str], entry: Entry) -> None:
    """Raise ConfigError where the entry names a source that the run does not have."""
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(names)}"
        raise ConfigError(f"{_named(entry)} names the unknown source {name!r}; {hint}")


def _check_steps(ledger: Sequence[Entry]) -> None:
    step = 0
    for entry in ledger:
        if entry.step < step:
            raise ConfigError(
                f"{_named(entry)} is out of order; expected a step of at least {step} here"
            )
        step = entry.step


def _named(entry: Entry) -> str:
    return f"order: the {entry.event} entry at step {entry.step}"
