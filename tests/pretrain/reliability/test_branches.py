"""A run that begins with another run's checkpoint, through the launcher: what it computes, and after a kill."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from data_prep.config_file import load_config, to_yaml
from data_prep.errors import DataError
from data_prep.shards.reader import ShardSet
from pretrain.checkpoints.names import name_of
from pretrain.config import RunConfig
from pretrain.export.config import ExportConfig
from pretrain.export.export import export
from pretrain.order.order import Order, SourceRows
from tests import runs, tiny
from tests.pretrain.plain import documents_of_step, plain_losses

pytestmark = pytest.mark.long
BEFORE, AFTER = 4, 40  # steps of the run that is branched from, and of the branch
SEED = 9  # the branch's own; the other run has 7


@pytest.fixture(scope="module")
def source(values, tmp_path_factory) -> Path:
    """The folder of a run on one rank, with a checkpoint of step 4."""
    folder = tmp_path_factory.mktemp("source")
    changes = {"phases": [], "training__steps": BEFORE, "schedule": {"name": "constant"}}
    config = tiny.write_config(folder / "run.yaml", values(folder / "run", **changes))
    ended = tiny.run_alone(config)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert runs.checkpoints(folder / "run") == [BEFORE]
    return folder / "run"


@pytest.fixture(scope="module")
def branch_config(values):
    """Writes the config of a branch: on other data than the source's, at a rate that falls to nothing."""

    def write(run: Path, source: Path) -> Path:
        changes = {
            "model": {"branch": {"run": str(source), "step": BEFORE}},
            "phases": [],
            "seed": SEED,
            "training__steps": AFTER,
            "schedule": {"name": "linear", "final_fraction": 0},
        }
        return tiny.write_config(run.with_suffix(".yaml"), values(run, **changes))

    return write


@pytest.fixture(scope="module")
def untouched(branch_config, source, tmp_path_factory) -> Path:
    """The folder of a branch that two ranks did from beginning to end."""
    run = tmp_path_factory.mktemp("untouched") / "run"
    ended = tiny.launch(branch_config(run, source))
    assert ended.returncode == 0, ended.stderr[-3000:]
    return run


def test_a_branch_computes_what_plain_pytorch_does_that_never_stopped(
    source, untouched, base_model, sets
):
    """One model and one AdamW, its moments and step counters kept, on the source's batches and then the branch's."""
    shards = [ShardSet(sets[name]) for name in "ab"]
    batches = []
    for seed, steps in ((7, BEFORE), (SEED, AFTER)):
        rows = [
            SourceRows(name, of.row_groups) for name, of in zip(("a", "b"), shards, strict=True)
        ]
        order = Order(rows, [2, 1], seed, 5, 4, [])
        for step in range(steps):
            pieces = [torch.from_numpy(piece) for piece in documents_of_step(order, shards, step)]
            batches.append([(piece, piece) for piece in pieces])
    rates = [1e-3] * BEFORE + [1e-3 * (1 - step / AFTER) for step in range(1, AFTER + 1)]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    expected = [loss for loss, _ in plain_losses(model, batches, rates)]

    assert list(tiny.losses(source).values()) == pytest.approx(expected[:BEFORE], rel=2e-5)
    found = tiny.losses(untouched)
    assert list(found) == list(range(1, AFTER + 1))
    assert list(found.values()) == pytest.approx(expected[BEFORE:], rel=2e-5)


def test_before_training_a_branch_is_what_it_began_with_and_not_what_came_later(
    source, untouched, tmp_path
):
    later, run = tmp_path / "source", tmp_path / "run"
    shutil.copytree(source, later)
    shutil.copytree(untouched, run)
    shutil.copytree(
        untouched / "checkpoints" / name_of(AFTER), later / "checkpoints" / name_of(AFTER)
    )
    config = load_config(RunConfig, run / "config.yaml")
    branch = config.model.branch.model_copy(update={"run": later, "step": None})
    model = config.model.model_copy(update={"branch": branch})
    (run / "config.yaml").write_text(to_yaml(config.model_copy(update={"model": model})))
    for place, step, output in ((run, 0, "began"), (source, BEFORE, "expected")):
        export(ExportConfig(run=place, step=step, output=tmp_path / output))
    began, expected = (
        load_file(tmp_path / name / "model.safetensors") for name in ("began", "expected")
    )
    assert began.keys() == expected.keys()
    assert all(torch.equal(began[name], expected[name]) for name in expected)
    shutil.rmtree(later / "checkpoints" / name_of(BEFORE))
    with pytest.raises(DataError, match="no longer has the checkpoint of step 4"):
        export(ExportConfig(run=run, step=0, output=tmp_path / "again"))


def test_a_branch_that_is_killed_goes_on_without_its_source(
    source, untouched, branch_config, tmp_path
):
    run = tmp_path / "run"
    config = branch_config(run, source)
    process = runs.start(config)
    tiny.wait_for(lambda: runs.checkpoints(run) or process.poll() is not None)
    tiny.kill(tiny.rank_processes(config))
    said = runs.end(process, config)
    assert runs.status(run)["state"] == "running", said[-3000:]

    gone = source.rename(source.with_name("gone"))
    try:
        ended = tiny.launch(config)
    finally:
        gone.rename(source)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert tiny.losses(run) == tiny.losses(untouched)  # bit for bit, and each step once
    resumed = [line for line in runs.lines(run) if line.get("event") == "resumed"]
    assert len(resumed) == 1
    assert 0 < resumed[0]["step"] < AFTER
