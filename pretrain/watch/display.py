"""What rank 0 shows: a report at the start, progress with loss, rate, MFU and time left."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

console = Console(stderr=True, highlight=False)
PLAIN_EVERY = 10  # steps between lines where the output is a file and not a terminal
PACE_STEPS = 100  # that the time left is judged by


def say(line: str) -> None:
    """One line as it is, however wide."""
    console.print(line, soft_wrap=True, markup=False)


class Display(Protocol):
    """Shows the state after a step."""

    def update(self, step: int, line: dict[str, Any]) -> None: ...


def report(title: str, rows: dict[str, Any]) -> None:
    """A table of facts, as at the start of a run."""
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    console.print(table)


def _describe(line: dict[str, Any]) -> str:
    mfu = f"  MFU {line['mfu']:.1%}" if "mfu" in line else ""
    return (
        f"loss {line['loss']:.4f}  lr {line['learning_rate']:.2e}  |g| {line['gradient_norm']:.2f}  "
        f"{line['tokens_per_second']:,.0f} tokens/s{mfu}"
    )


class Pace:
    """The time left, by the last steps and whatever was done between them: validation, checkpoints."""

    def __init__(self, steps: int):
        self.steps = steps
        self._last: deque[tuple[int, float]] = deque(maxlen=PACE_STEPS + 1)

    def left(self, step: int, now: float, seconds: float) -> float:
        """Seconds to the end after `step`, done at `now`, which took `seconds` itself."""
        if self._last and step <= self._last[-1][0]:  # rolled back
            self._last.clear()
        self._last.append((step, now))
        first, began = self._last[0]
        each = (now - began) / (step - first) if step > first else seconds
        return each * (self.steps - step)


class _Plain:
    def __init__(self, steps: int):
        self.steps = steps
        self.pace = Pace(steps)
        self.shown_any = False

    def update(self, step: int, line: dict[str, Any]) -> None:
        left = self.pace.left(step, time.monotonic(), line["seconds"])
        if step % PLAIN_EVERY == 0 or step == self.steps or not self.shown_any:
            say(f"step {step}/{self.steps}  {_describe(line)}  {clock(left)} left")
            self.shown_any = True


class _Bar:
    def __init__(self, bar: Progress, task: Any, steps: int):
        self.bar, self.task, self.pace = bar, task, Pace(steps)

    def update(self, step: int, line: dict[str, Any]) -> None:
        left = self.pace.left(step, time.monotonic(), line["seconds"])
        what = f"{_describe(line)}  {clock(left)} left"
        self.bar.update(self.task, completed=step, what=what)


@contextmanager
def training_display(title: str, step: int, steps: int) -> Iterator[Display]:
    """A bar on a terminal, a line now and then elsewhere."""
    if not console.is_terminal:
        yield _Plain(steps)
        return
    columns = ("{task.description} {task.completed}/{task.total}", "{task.fields[what]}")
    with Progress(
        TextColumn(columns[0]),
        BarColumn(bar_width=None),
        TextColumn(columns[1]),
        TimeElapsedColumn(),
        console=console,
    ) as bar:
        yield _Bar(bar, bar.add_task(title, total=steps, completed=step, what=""), steps)


def clock(seconds: float) -> str:
    """Days, hours, minutes and seconds: "3 d 4:05:06"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days} d " * (days > 0) + f"{hours}:{minutes:02d}:{rest:02d}"
