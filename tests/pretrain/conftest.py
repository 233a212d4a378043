"""One uninterrupted run on two ranks, which several tests compare with."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM

from pretrain.distributed import Ranks
from tests import tiny

STEPS = 24
# The second half reads as much of b as of a, then more at once.
PHASES = [
    {"from_step": 8, "weights": {"a": 1, "b": 1}},
    {"from_step": 14, "global_batch": 7},
]


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two shard sets of one tokenizer."""
    folder = tmp_path_factory.mktemp("sets")
    return {"a": tiny.shard_set(folder / "a", 200, 0), "b": tiny.shard_set(folder / "b", 80, 1)}


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small LLaMA on disk, in fp32, to be continued."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(3)
    settings = dict(tiny.LLAMA)
    config = AutoConfig.for_model(settings.pop("model_type"), vocab_size=257, **settings)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def values(sets: dict[str, Path], base_model: Path, communication_op):
    """Config values of a run in `folder`: 5, later 7 sequences a step, which two ranks do not share evenly."""

    def make(folder: Path, **changes):
        defaults = {
            "model": {"path": str(base_model)},
            "data__train": {
                "a": {"path": str(sets["a"]), "weight": 2},
                "b": {"path": str(sets["b"]), "weight": 1},
            },
            "training__steps": STEPS,
            "training__global_batch": 5,
            "training__micro_batch": 2,
            "checkpoint": {"every_steps": 5, "keep": 10},
            "phases": PHASES,
        }
        return tiny.run_config(folder, {}, **(defaults | changes))

    return make


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, values) -> Path:
    """The folder of a run that two ranks did from beginning to end."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    config = tiny.write_config(folder / "run.yaml", values(folder / "run"))
    ended = tiny.launch(config)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder / "run"


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Ranks]:
    """A process group of this process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield Ranks(0, 0, 1)
    dist.destroy_process_group()
