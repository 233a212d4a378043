"""Progress of work done in other processes: how much, how fast, how long still."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

console = Console(stderr=True)
POLL_S = 0.5  # often enough for the eye, rare enough for a shared file system
LINE_S = 30.0  # where there is no terminal: a log shows life, and stays readable

Ended = tuple[int, int]  # units and bytes of input
Item = TypeVar("Item")


def progress_bar() -> Progress:
    """The columns that every data_prep command shows."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


class Follower:
    """Shows how far a stage is: a bar on a terminal, elsewhere a line now and then.

    `look` tells what has ended by now, of `total`.
    """

    def __init__(self, title: str, total: Ended, look: Callable[[], Ended]):
        self.note = ""  # what the scheduler says, beside the numbers
        self._title, self._total, self._look = title, total, look
        self._began, self._first = time.monotonic(), look()

    def line(self) -> str:
        """Units, rate and time left in one line."""
        units, size = self._look()
        seconds = time.monotonic() - self._began
        rate = (size - self._first[1]) / seconds if seconds else 0.0
        left = f", {duration((self._total[1] - size) / rate)} left" if rate else ""
        note = f", {self.note}" if self.note else ""
        return f"{self._title}  {units}/{self._total[0]} units, {rate / 1e6:.1f} MB/s{left}{note}"

    def watch(self, stop: threading.Event) -> None:
        """Show until `stop` is set."""
        if console.is_terminal:
            self._show_bar(stop)
            return
        while not stop.wait(LINE_S):
            console.print(self.line(), highlight=False, markup=False, soft_wrap=True)

    def _show_bar(self, stop: threading.Event) -> None:
        with progress_bar() as bar:
            task = bar.add_task(self._title, total=self._total[1], completed=self._first[1])
            while True:
                began = time.monotonic()
                units, size = self._look()
                text = f"{self._title} {units}/{self._total[0]} {self.note}".rstrip()
                bar.update(task, completed=size, description=text)
                # Looking takes its time where units are many: no more than a tenth of the whole.
                if stop.wait(max(POLL_S, 10 * (time.monotonic() - began))):
                    return


@contextmanager
def follow(title: str, total: Ended, look: Callable[[], Ended]) -> Iterator[Follower]:
    """Show, while the block runs, how much of `total` has ended."""
    follower = Follower(title, total, look)
    stop = threading.Event()
    watcher = threading.Thread(target=follower.watch, args=(stop,), daemon=True)
    watcher.start()
    try:
        yield follower
    finally:
        stop.set()
        watcher.join()


def followed(
    title: str, items: Iterable[Item], total: Ended, bytes_of: Callable[[Item], int]
) -> Iterator[Item]:
    """The items, and shown meanwhile how many of `total` have been dealt with."""
    units = size = 0
    with follow(title, total, lambda: (units, size)):
        for item in items:
            yield item
            units += 1
            size += bytes_of(item)


def duration(seconds: float) -> str:
    """Whole seconds as h:mm:ss, days in front."""
    return str(timedelta(seconds=round(seconds)))
