"""The same function over many tasks in several processes, with what is done shown and Ctrl-C obeyed."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import (
    active_children,
    get_context,
    parent_process,
    set_forkserver_preload,
)
from typing import TypeVar

from data_prep.errors import DataError
from data_prep.progress import follow

Task = TypeVar("Task")
Result = TypeVar("Result")
WAITING = 2  # tasks for each process: none is idle, and nothing piles up


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def parallel(
    title: str,
    work: Callable[[Task], Result],
    tasks: Sequence[tuple[Task, int]],
    workers: int,
) -> Iterator[Result]:
    """`work` of every task, as they end; each task comes with its size in bytes, for the time left.

    `work` is a function of a module, and what it takes and gives can be pickled. One worker is this
    process itself. What a task raises is raised here, and all processes end; so they do when the
    caller stops. Raises DataError where a process was killed.
    """
    done, size = 0, 0
    total = len(tasks), sum(size for _, size in tasks)
    with follow(title, total, lambda: (done, size)):
        for result, bytes_of in _results(work, tasks, min(workers, len(tasks))):
            done, size = done + 1, size + bytes_of
            yield result


def _results(
    work: Callable[[Task], Result], tasks: Sequence[tuple[Task, int]], workers: int
) -> Iterator[tuple[Result, int]]:
    if workers <= 1:
        yield from ((work(task), size) for task, size in tasks)
        return
    left = iter(tasks)
    waiting: dict[Future[Result], int] = {}
    # Forked from a server: libraries that keep threads (Arrow, tokenizers) do not bear a plain fork.
    set_forkserver_preload([work.__module__])  # imported once, not by each process
    context = get_context("forkserver")
    with ProcessPoolExecutor(workers, context, _be_worker) as pool:
        try:
            while True:
                while len(waiting) < WAITING * workers and (following := next(left, None)):
                    with _undisturbed():  # the first ones start the processes
                        waiting[pool.submit(work, following[0])] = following[1]
                if not waiting:
                    return
                ended, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ended:
                    yield future.result(), waiting.pop(future)
        except BrokenProcessPool as error:
            raise DataError(
                "a process was killed (out of memory?); start again with fewer: --workers 1"
            ) from error
        except BaseException:
            for process in active_children():
                process.kill()
            raise


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let what stops a command wait: a fork server whose request is cut off would print its traceback.

    So would one that Ctrl-C meets at its own imports: it inherits the signal blocked.
    """
    caught = []
    stopping = [
        number
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is signal.default_int_handler
    ]
    before = {number: signal.signal(number, lambda *_: caught.append(True)) for number in stopping}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        raise KeyboardInterrupt


def _be_worker() -> None:
    """Leave Ctrl-C to the process that waits for this one, and end when it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    above = parent_process()
    if above is not None:
        above.join()
    os._exit(1)
