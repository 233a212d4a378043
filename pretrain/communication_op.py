"""DeepSpeed's communication op on CPU, built on first use by one process at a time.

torch marks a build with a file and waits until it is gone: killed while it builds, a process leaves the
mark, and whoever comes later waits for ever. Here the kernel holds the lock, which no death leaves behind,
and a mark found under it belongs to nobody.
"""

import fcntl
import os
from pathlib import Path

from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder
from torch.utils.cpp_extension import get_default_build_root

TORCHS_MARK = "lock"


def load_communication_op() -> None:
    """Load the op, after building it where that has not been done; DeepSpeed then finds it loaded."""
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    root.mkdir(parents=True, exist_ok=True)
    builder = ShareMemCommBuilder()
    with (root / f"{builder.name}.build").open("a") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        # Torch's own root has a folder for each version of Python, TORCH_EXTENSIONS_DIR has none.
        for mark in root.rglob(f"{builder.name}/{TORCHS_MARK}"):
            mark.unlink(missing_ok=True)
        builder.load(verbose=False)
