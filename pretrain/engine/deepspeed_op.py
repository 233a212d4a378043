"""DeepSpeed's compiled operations: each is built on first use, by one process of a machine at a time.

torch marks a build with a file and waits until it is gone: killed while it builds, a process leaves the
mark, and whoever comes later waits for ever. Here the kernel holds the lock, which no death leaves behind,
and a mark found under it belongs to nobody.
"""

import fcntl
import os
import sys
from pathlib import Path
from typing import Any

from deepspeed.ops.op_builder import (
    AsyncIOBuilder,
    CPUAdamBuilder,
    PinMemoryBuilder,
)
from torch.utils.cpp_extension import get_default_build_root

from data_prep.errors import ProjectError

TORCHS_MARK = "lock"
# What each operation needs besides a compiler; Debian's names.
PACKAGES = {"async_io": "libaio-dev"}


def load_op(builder: Any) -> None:
    """Load an operation, after building it where that has not been done; DeepSpeed then finds it loaded.

    `builder`: an object of one of deepspeed.ops.op_builder's classes. Raises ProjectError where it
    cannot be built.
    """
    # ninja lies beside the interpreter, even where the environment has not been activated; another
    # version of it would build again what this one has built.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    root.mkdir(parents=True, exist_ok=True)
    with (root / f"{builder.name}.build").open("a") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        # Torch's own root has a folder for each version of Python, TORCH_EXTENSIONS_DIR has none.
        for mark in root.rglob(f"{builder.name}/{TORCHS_MARK}"):
            mark.unlink(missing_ok=True)
        try:
            builder.load(verbose=False)
        except Exception as error:  # a compiler's, a linker's, DeepSpeed's own
            package = PACKAGES.get(builder.name)
            needed = f" and the package {package}" if package else ""
            reason = str(error).strip().splitlines()
            raise ProjectError(
                f"DeepSpeed's operation {builder.name} cannot be built "
                f"({reason[0] if reason else type(error).__name__}); it needs g++ or nvcc{needed}"
            ) from error


def load_offload_ops(zero: dict[str, Any], optimizer: str) -> None:
    """Load what a zero_optimization section with offloading uses, before ranks build it side by side."""
    devices = {
        part: zero.get(part, {}).get("device", "none")
        for part in ("offload_param", "offload_optimizer")
    }
    if "nvme" in devices.values():
        load_op(PinMemoryBuilder())  # which the other one would build, without a lock
        load_op(AsyncIOBuilder())
    if devices["offload_optimizer"] != "none" and optimizer == "adamw":
        load_op(CPUAdamBuilder())
