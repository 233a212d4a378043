"""Run as a rank: launch/pretrain.py's own `main`, and what torch was set to meanwhile; rank 0 writes OUTPUT.

python -m tests.pretrain.settings_of_a_run OUTPUT --config FILE
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pretrain.command import end, main


def look(found: dict[str, Any]) -> None:
    """Wait for the process group, and ask it how long it waits: the run takes it away at its end."""
    import torch
    import torch.distributed as dist

    while not dist.is_initialized():
        time.sleep(0.01)
    backend = dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
    found["timeout_s"] = backend.options._timeout.total_seconds()


if __name__ == "__main__":
    found: dict[str, Any] = {}
    threading.Thread(target=look, args=(found,), daemon=True).start()
    code = main("pretrain", sys.argv[2:])
    import torch

    found["deterministic"] = torch.are_deterministic_algorithms_enabled()
    if os.environ["RANK"] == "0":
        Path(sys.argv[1]).write_text(json.dumps(found))
    end(code)
