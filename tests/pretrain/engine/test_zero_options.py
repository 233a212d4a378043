"""Each file of configs/deepspeed/ on real ranks: the losses of ZeRO-3, and those again after a checkpoint."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.pretrain.engine import zero_process

ADAMW = {"name": "adamw", "learning_rate": 1e-2, "weight_decay": 0.1}
LION = {"name": "lion", "learning_rate": 1e-3, "weight_decay": 0.1}


@pytest.fixture(scope="session")
def zero_3(tmp_path_factory, communication_op) -> list[float]:
    """Losses of six steps on one rank with the default file."""
    folder = tmp_path_factory.mktemp("zero3")
    return zero_process.run(folder / "1", zero="zero3.json", optimizer=ADAMW, steps=6)["losses"]


@pytest.fixture(scope="session")
def nvme() -> None:
    """DeepSpeed's op for swapping is built; skipped where it cannot be."""
    command = "from pretrain.engine.deepspeed_op import load_offload_ops as load; "
    command += "load({'offload_param': {'device': 'nvme'}}, 'adamw')"
    built = subprocess.run(
        [sys.executable, "-c", command],
        env=tiny.ENVIRONMENT,
        cwd=tiny.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        pytest.skip(f"no swapping to NVMe here: {built.stderr.strip().splitlines()[-1]}")


# The first builds DeepSpeed's AdamW for CPU, a minute or two where that has not been done.
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "file", ["zero3.json", "zero1.json", "zero2.json", "zero3-offload.json", "zero3-hpz.json"]
)
def test_two_ranks_have_zero_3s_losses_and_go_on_from_their_checkpoint(file, tmp_path, zero_3):
    check(file, tmp_path, zero_3, resharded=True)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_parameters_on_nvme_have_zero_3s_losses_and_go_on_from_their_checkpoint(
    tmp_path, communication_op, nvme
):
    expected = zero_process.run(
        tmp_path / "0", zero="zero3.json", optimizer=ADAMW, steps=6, wide=True
    )
    # The one that is loaded by DeepSpeed itself: its files are no shards.
    check("zero3-nvme.json", tmp_path, expected["losses"], resharded=False, wide=True)
    assert any(tmp_path.rglob("*.swp"))


def check(file: str, folder: Path, expected: list[float], resharded: bool, **more: Any) -> None:
    """Losses as `expected`, and those again after a checkpoint, which the trainer loads `resharded`."""
    saved = folder / "checkpoints/a"
    options = {"zero": file, "optimizer": ADAMW, "steps": 6} | more
    whole = zero_process.run(folder / "1", 2, **options)
    assert whole["losses"] == pytest.approx(expected, rel=1e-5)
    begun = zero_process.run(folder / "2", 2, **(options | {"steps": 3, "save": str(saved)}))
    load = {"first": 3, "load": str(saved), "resharded": resharded}
    rest = zero_process.run(folder / "3", 2, **(options | load))
    assert begun["losses"] + rest["losses"] == whole["losses"]
    assert rest["groups"] == rest["own"]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_lion_offloaded_has_the_losses_of_lion_that_is_not(tmp_path, communication_op):
    found = zero_process.run(tmp_path / "1", 2, zero="zero3-offload.json", optimizer=LION)
    expected = zero_process.run(tmp_path / "2", 1, zero="zero3.json", optimizer=LION)
    # A sign of a sum near 0 depends on its last bit.
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-4)


def test_zero_2_has_zero_3s_losses(tmp_path, zero_3):
    found = zero_process.run(tmp_path / "2", zero="zero2.json", optimizer=ADAMW, steps=3)
    assert found["losses"] == pytest.approx(zero_3[:3], rel=1e-5)
    assert zero_3[2] < zero_3[0] - 0.1  # the first batch, once more


ACCUMULATION = """
import os, sys
import deepspeed, torch
from pretrain import distributed
from pretrain.config import Training
from pretrain.engine.deepspeed_config import effective_config
from tests import tiny

distributed.start(5)
for stage in (1, 2, 3):
    path = tiny.ROOT / f"configs/deepspeed/zero{stage}.json"
    training = Training(steps=1, global_batch=64, gradient_clipping=0.0)
    settings = effective_config(path, training, 64)
    model = torch.nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    for number in range(64):
        engine.set_gradient_accumulation_boundary(number == 63)
        value = 1.0 if number == 0 else 2.0**-9
        engine.backward(engine(torch.full((1, 1), value, dtype=torch.bfloat16)).sum())
        engine.step()
    print("SUM", stage, float(engine.get_global_grad_norm()) * 64)
sys.stdout.flush()
os._exit(0)
"""


def test_bf16_gradients_add_up_in_fp32_in_every_stage(communication_op):
    # In bf16, whose next number above 1 is 1 + 2^-7, 1 + 2^-9 is 1: the small ones would be lost.
    ended = subprocess.run(
        [sys.executable, "-c", ACCUMULATION],
        env=tiny.ENVIRONMENT | {"MASTER_PORT": str(tiny.free_port())},
        cwd=tiny.ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    sums = [line.split()[1:] for line in ended.stdout.splitlines() if line.startswith("SUM")]
    assert [int(stage) for stage, _ in sums] == [1, 2, 3]
    assert [float(found) for _, found in sums] == pytest.approx([1 + 63 * 2**-9] * 3, rel=1e-6)
