"""DeepSpeed's communication op on CPU: built by one process at a time, its memory given back.

torch marks a build with a file and waits until it is gone: killed while it builds, a process leaves the
mark, and whoever comes later waits for ever. Here the kernel holds the lock, which no death leaves behind,
and a mark found under it belongs to nobody.
"""

import contextlib
import fcntl
import os
import sys
from pathlib import Path

from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder
from torch.utils.cpp_extension import get_default_build_root

TORCHS_MARK = "lock"


def load_communication_op() -> None:
    """Load the op, after building it where that has not been done; DeepSpeed then finds it loaded."""
    # ninja lies beside the interpreter, even where the environment has not been activated; another
    # version of it would build again what this one has built.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    root.mkdir(parents=True, exist_ok=True)
    builder = ShareMemCommBuilder()
    with (root / f"{builder.name}.build").open("a") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        # Torch's own root has a folder for each version of Python, TORCH_EXTENSIONS_DIR has none.
        for mark in root.rglob(f"{builder.name}/{TORCHS_MARK}"):
            mark.unlink(missing_ok=True)
        builder.load(verbose=False)


def remove_buffer_name(rank: int) -> None:
    """Let this rank's shared buffer go when the last process that mapped it ends.

    DeepSpeed leaves 69 MB a rank in /dev/shm for good, and a later run on the same port may take
    such a buffer, with the state of the one that left it, for its peer's.
    """
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    name = f"deepspeed_allreduce_buffer_{os.getuid()}_{address}_{port}_{rank}"
    with contextlib.suppress(FileNotFoundError):
        (Path("/dev/shm") / name).unlink()
