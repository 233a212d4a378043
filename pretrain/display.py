"""What rank 0 shows: a report at the start, progress with loss, rate and time left."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

console = Console(stderr=True, highlight=False)
PLAIN_EVERY = 10  # steps between lines where the output is a file and not a terminal


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
    return (
        f"loss {line['loss']:.4f}  lr {line['learning_rate']:.2e}  |g| {line['gradient_norm']:.2f}  "
        f"{line['tokens_per_second']:,.0f} tokens/s"
    )


class _Plain:
    def __init__(self, steps: int):
        self.steps = steps
        self.shown_any = False

    def update(self, step: int, line: dict[str, Any]) -> None:
        if step % PLAIN_EVERY == 0 or step == self.steps or not self.shown_any:
            left = line["seconds"] * (self.steps - step)
            say(f"step {step}/{self.steps}  {_describe(line)}  {_clock(left)} left")
            self.shown_any = True


class _Bar:
    def __init__(self, bar: Progress, task: Any):
        self.bar, self.task = bar, task

    def update(self, step: int, line: dict[str, Any]) -> None:
        self.bar.update(self.task, completed=step, what=_describe(line))


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
        TimeRemainingColumn(),
        console=console,
    ) as bar:
        yield _Bar(bar, bar.add_task(title, total=steps, completed=step, what=""))


def _clock(seconds: float) -> str:
    hours, minutes = divmod(round(seconds) // 60, 60)
    return f"{hours}:{minutes:02d}:{round(seconds) % 60:02d}"
