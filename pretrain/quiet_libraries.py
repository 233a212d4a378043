"""Settings of libraries that must stand before they are imported: no telemetry, and nothing said, on every
rank, that nobody can act on."""

import logging
import os
import warnings


def prepare_libraries() -> None:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Frames in C++ of a connection that closes, on every rank that is left.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch|transformers|peft")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # That weights were left on the disk, which is the point.
    logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)
