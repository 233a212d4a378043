"""A process for units: what kills it ends the unit at hand alone, and it outlives nobody who waits for it."""

import ctypes
import os
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h
INTERRUPTED = 130  # 128 + SIGINT, as shells say it
# Of -1000 to 1000 (proc(5)): where memory is out the kernel ends the unit, not what schedules it.
OOM_SCORE = 500
UNITS_A_PROCESS = 64  # what it holds on to, tokenizers' caches above all, goes with it
DONE = b"."


class InterruptedUnitError(Exception):
    """The user stopped the unit: no fault of its own."""


class UnitProcess:
    """A child process that does units one after the other; what kills it ends the unit at hand alone.

    It is forked from a process that has done no unit itself: libraries that keep threads (tokenizers,
    Arrow) can stand still for ever in the child of a process that used them. It dies with that process.
    """

    def __init__(self, prepare: Callable[[], None], work: Callable[[bytes], None]):
        self._prepare = prepare
        self._work = work
        self._child: _Child | None = None

    def do(self, unit: bytes) -> str | None:
        """Do a unit; the reason where the child did not come to its end, as a user reads it.

        Raises InterruptedUnitError where Ctrl-C reached the child.
        """
        if self._child is None or self._child.units == UNITS_A_PROCESS:
            self.close()
            try:
                self._child = _Child(self._prepare, self._work)
            except OSError as error:
                return f"no process could be started for it: {error.strerror}"
        try:
            if self._child.do(unit):
                return None
            code = self._child.exit_code()
        except BaseException:
            self.close()
            raise
        self._child = None
        if code == INTERRUPTED:
            raise InterruptedUnitError
        return _reason(code)

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None


class _Child:
    """One process and the two pipes to it: units go down, a byte comes back for each that ended."""

    def __init__(self, prepare: Callable[[], None], work: Callable[[bytes], None]):
        parent = os.getpid()
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        try:
            self._pid = os.fork()
        except OSError:
            for end in (orders, self._orders, self._answers, answers):
                os.close(end)
            raise
        if self._pid == 0:
            os.close(self._orders)
            os.close(self._answers)
            _be_child(parent, orders, answers, prepare, work)
        os.close(orders)
        os.close(answers)
        self.units = 0

    def do(self, unit: bytes) -> bool:
        """Whether the child brought the unit to an end; False where it ended itself."""
        self.units += 1
        with suppress(BrokenPipeError):
            _write(self._orders, len(unit).to_bytes(8, "big") + unit)
        return os.read(self._answers, 1) == DONE

    def exit_code(self) -> int:
        os.close(self._orders)
        os.close(self._answers)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def kill(self) -> None:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._pid, signal.SIGKILL)
            self.exit_code()


def _be_child(
    parent: int,
    orders: int,
    answers: int,
    prepare: Callable[[], None],
    work: Callable[[bytes], None],
) -> None:
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(code)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
        prepare()
        with os.fdopen(orders, "rb") as stream:
            while size := stream.read(8):
                work(stream.read(int.from_bytes(size, "big")))
                os.write(answers, DONE)
        code = 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BaseException:
        traceback.print_exc()  # `work` writes down what a unit can do wrong: this is a fault of ours
    finally:
        os._exit(code)


def _write(end: int, data: bytes) -> None:
    while data:
        data = data[os.write(end, data) :]


def _reason(code: int) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed (out of memory?); give it more memory, or run fewer at once"
    if code < 0:
        return f"its process was ended by signal {-code} ({signal.Signals(-code).name})"
    return f"its process ended with code {code} and without a record; what it printed says more"
