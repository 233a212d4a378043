"""Progress of work done in other processes: how much, how fast, how long still."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

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


@contextmanager
def follow(title: str, work: Sequence[tuple[int, Callable[[], bool]]]) -> Iterator[None]:
    """Show how many of the pieces (bytes, is it finished?) are finished while the block runs."""
    if not console.is_terminal:
        yield
        return
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(title, list(work), stop), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _watch(
    title: str, waiting: list[tuple[int, Callable[[], bool]]], stop: threading.Event
) -> None:
    units, total = len(waiting), sum(size for size, _ in waiting)
    with progress_bar() as bar:
        task = bar.add_task(title, total=total)
        while True:
            began = time.monotonic()
            waiting = [piece for piece in waiting if not piece[1]()]
            left = sum(size for size, _ in waiting)
            bar.update(
                task, completed=total - left, description=f"{title} {units - len(waiting)}/{units}"
            )
            # Looking takes its time where units are many: no more than a tenth of the whole.
            if stop.wait(max(POLL_S, 10 * (time.monotonic() - began))):
                return
