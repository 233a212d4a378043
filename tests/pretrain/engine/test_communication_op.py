"""The op that DeepSpeed builds on CPU: a process killed while it built must not stop all later ones."""

import os
import subprocess
import sys

import pytest

from tests import tiny

LOAD = (
    "from pretrain.engine.communication_op import load_communication_op as load; load(); "
    "from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder as B; print(sorted(B._loaded_ops))"
)


def load(folder) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LOAD],
        env=tiny.ENVIRONMENT | {"TORCH_EXTENSIONS_DIR": str(folder)},
        cwd=tiny.ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.long
def test_a_mark_of_a_killed_build_is_no_obstacle(tmp_path):
    mark = tmp_path / "deepspeed_shm_comm" / "lock"
    mark.parent.mkdir()
    mark.touch()
    loaded = load(tmp_path)
    assert "deepspeed_shm_comm" in loaded.stdout, loaded.stderr[-2000:]
    assert not mark.exists()
    built = mark.with_name("deepspeed_shm_comm.so")
    first = os.stat(built).st_mtime_ns
    assert "deepspeed_shm_comm" in load(tmp_path).stdout
    assert os.stat(built).st_mtime_ns == first  # built once
