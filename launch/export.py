"""Turn a run's checkpoint into a Hugging Face folder that loads offline.

python launch/export.py --run runs/demo/pretrain --output runs/demo/model [--step 200] [--dtype bfloat16]
"""

import os
import sys
from pathlib import Path

# This folder's scripts must not shadow packages; the checkout must be importable without installing.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.command_line import run_command
from pretrain.export.config import ExportConfig
from pretrain.export.source import source_of
from pretrain.quiet_libraries import prepare_libraries


def main(config: ExportConfig) -> None:
    source_of(config)  # a mistake shows before torch loads
    prepare_libraries()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed would say that it found no other
    from pretrain.export.export import export

    print(f"written: {export(config)}")


if __name__ == "__main__":
    sys.exit(run_command("export", ExportConfig, main, sys.argv[1:]))
