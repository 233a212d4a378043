"""A process for each unit: what kills it ends that unit alone, and it outlives nobody who waits for it."""

import ctypes
import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from multiprocess import parent_process

PR_SET_PDEATHSIG = 1  # linux/prctl.h
INTERRUPTED = 130  # 128 + SIGINT, as shells say it
# Of -1000 to 1000 (proc(5)): where memory is out the kernel ends the unit, not what schedules it.
OOM_SCORE = 500


_binding = False  # whether processes that are forked now die with this one


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _after_fork() -> None:
    if _binding:
        _die_with_parent()


os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def bound_children() -> Iterator[None]:
    """What this thread forks in the block, a library's helpers too, is killed with this process."""
    global _binding
    _binding = True
    try:
        yield
    finally:
        _binding = False


class InterruptedUnitError(Exception):
    """The user stopped the unit: no fault of its own."""


def run_in_child(work: Callable[[], None]) -> str | None:
    """Do `work` in a child process; the reason where it did not come to its end, as a user reads it.

    The child dies with this process, and both with the process that started this one. Raises
    InterruptedUnitError where Ctrl-C reached the child.
    """
    parent = os.getpid()
    # Closed by the kernel when the child ends: what pidfd_open is for, which Linux has from 5.3 on.
    ended, held = os.pipe()
    try:
        child = os.fork()
    except OSError as error:
        os.close(ended)
        os.close(held)
        return f"no process could be started for it: {error.strerror}"
    if child == 0:
        os.close(ended)
        _be_child(parent, work)
    os.close(held)
    try:
        _wait_for(ended)
        _, status = os.waitpid(child, 0)
    except BaseException:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        raise
    finally:
        os.close(ended)
    code = os.waitstatus_to_exitcode(status)
    if code == INTERRUPTED:
        raise InterruptedUnitError
    return _reason(code)


def _be_child(parent: int, work: Callable[[], None]) -> None:
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _die_with_parent()
        if os.getppid() != parent:  # it died before the line above
            os._exit(code)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
        work()
        code = 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    finally:
        os._exit(code)


def _wait_for(ended: int) -> None:
    """Return when the child ended; end this process, and so the child, when its own parent did."""
    above = parent_process()
    waiting = select.poll()
    waiting.register(ended)
    if above is not None:
        waiting.register(above.sentinel)
    if ended not in [ready for ready, _ in waiting.poll()]:
        os._exit(1)


def _reason(code: int) -> str | None:
    if code == 0:
        return None
    if code == -signal.SIGKILL:
        return "its process was killed (out of memory?); give it more memory, or run fewer at once"
    if code < 0:
        return f"its process was ended by signal {-code} ({signal.Signals(-code).name})"
    return "its process ended without a reason (disk full?)"
