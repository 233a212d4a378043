"""When a run must stop before its end: signals, and a launcher that is no longer there.

Measured with deepspeed 0.19.8: SIGTERM to `deepspeed` ends it with 143 and leaves its ranks
training; so each rank watches the launcher process and that one's parent, too.
"""

import ctypes
import os
import signal
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Interruption:
    """Remembers why the run should stop at the next step boundary; nothing is interrupted by itself."""

    def __init__(self) -> None:
        self._signal: int | None = None
        self._launcher = os.getppid()
        self._starter = _launcher_parent(self._launcher)

    def install(self) -> None:
        """Handle SIGTERM, SIGUSR1 and SIGINT; die with the parent, until there is something to save.

        Ranks that meet wait in native code, some of it for ever: no handler runs there.
        """
        for number in SIGNALS:
            signal.signal(number, self._handle)
        _when_parent_dies(signal.SIGKILL)

    def outlive_parent(self) -> None:
        """From now on the parent's death is a reason to stop, no more.

        That it died shows in `reason`; the kernel would also send its signal where the thread that
        started this process ends and the launcher goes on.
        """
        _when_parent_dies(0)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._signal = number

    @property
    def reason(self) -> str | None:
        """Why to stop, or None."""
        if self._signal is not None:
            return signal.Signals(self._signal).name
        if os.getppid() != self._launcher:
            return "the launcher died"
        if self._starter is not None and _parent_of(self._launcher) != self._starter:
            return "the deepspeed command died"
        return None


def _launcher_parent(launcher: int) -> int | None:
    """Parent of deepspeed's per-node launcher, where that is what started this process."""
    try:
        command = Path(f"/proc/{launcher}/cmdline").read_bytes()
    except OSError:
        return None
    return _parent_of(launcher) if b"deepspeed.launcher.launch" in command else None


def _parent_of(pid: int) -> int | None:
    try:
        # The second field, the command in brackets, may itself hold spaces and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1])


def ignore_in_worker(_worker: int) -> None:
    """For loader processes: the rank decides when to stop, its workers end with it."""
    for number in (signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _when_parent_dies(signal.SIGKILL)


def _when_parent_dies(number: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)
