"""DeepSpeed's communication op on CPU: built by one process at a time, its memory given back."""

import contextlib
import os
from pathlib import Path

from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

from pretrain.engine.deepspeed_op import load_op


def load_communication_op() -> None:
    """Load the op, after building it where that has not been done; DeepSpeed then finds it loaded."""
    load_op(ShareMemCommBuilder())


def remove_buffer_name(rank: int) -> None:
    """Let this rank's shared buffer go when the last process that mapped it ends.

    DeepSpeed leaves 69 MB a rank in /dev/shm for good, and a later run on the same port may take
    such a buffer, with the state of the one that left it, for its peer's.
    """
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    name = f"deepspeed_allreduce_buffer_{os.getuid()}_{address}_{port}_{rank}"
    with contextlib.suppress(FileNotFoundError):
        (Path("/dev/shm") / name).unlink()
