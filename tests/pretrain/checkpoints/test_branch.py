"""A run that begins with another run's checkpoint: what it takes over, and what is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.errors import ConfigError, DataError
from data_prep.files import sha256_file
from pretrain.checkpoints.branch import (
    check_branch,
    find_source,
    identity,
    identity_at_resume,
    model_folder,
)
from pretrain.config import Branch, RunConfig
from tests import tiny
from tests.pretrain.checkpoints import zero_runs

STAGE3 = {"stage": 3}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on two ranks with checkpoints of steps 3 and 4."""
    run = tmp_path_factory.mktemp("source")
    zero_runs.run(run, "task", 2, zero=STAGE3, do=[3, "save", 1, "save"])
    (run / "config.yaml").write_text(yaml.safe_dump(tiny.run_config(run, {"a": Path("a")})))
    return run


@pytest.fixture
def copied(source: Path, tmp_path: Path) -> Path:
    shutil.copytree(source, tmp_path / "copied")
    return tmp_path / "copied"


def config(run: Path, source: Path, step: int | None = None, **changes: Any) -> RunConfig:
    branch = {"branch": {"run": str(source), "step": step}}
    values = tiny.run_config(run, {"a": Path("a")}, model=branch, **changes)
    return RunConfig.model_validate(values)


@pytest.mark.long
@pytest.mark.parametrize("zero", [{"stage": 1}, STAGE3])
def test_a_branch_does_what_the_run_itself_would_do_on_the_same_data(source, zero, tmp_path):
    """The branch begins on one rank with a model of another seed; its step 1 reads what step 4 read."""
    branch = {"run": str(source), "step": 3}
    before = sorted(path.name for path in (source / "checkpoints").rglob("*"))
    task = {"zero": zero, "branch": branch, "read": 3, "seed": 5}
    branched = zero_runs.run(tmp_path, "branch", 1, do=[3, "save"], **task)

    alone = tmp_path / "goes on"
    shutil.copytree(source / "checkpoints/step-00000003", alone / "checkpoints/step-00000003")
    went_on = zero_runs.run(alone, "task", 1, zero=zero, do=[3])
    assert list(branched["losses"]) == [1, 2, 3]
    assert list(branched["losses"].values()) == list(went_on["losses"].values())
    for name, tensors in went_on["end"].items():
        for key, tensor in tensors.items():
            assert tensor.equal(branched["end"][name][key]), f"{key} of {name}"

    assert sorted(path.name for path in (source / "checkpoints").rglob("*")) == before
    # It goes on from its own, without the source.
    again = task | {"branch": {"run": str(tmp_path / "gone"), "step": 3}}
    assert list(zero_runs.run(tmp_path, "again", 1, do=[1], **again)["losses"]) == [4]


def test_the_newest_whole_checkpoint_is_taken_and_the_source_is_left_as_it_is(copied, alone):
    branch = Branch(run=copied, step=None)
    assert find_source(branch, alone) == (copied / "checkpoints/step-00000004", [])
    (copied / "checkpoints/step-00000004/state.json").write_text("{}")
    path, said = find_source(branch, alone)
    assert path == copied / "checkpoints/step-00000003"
    assert len(said) == 1
    assert "step-00000004 is not whole and is passed over: state.json has 2 bytes" in said[0]
    assert (copied / "checkpoints/step-00000004").is_dir()
    with pytest.raises(DataError, match=r"is not whole .*name the step of another one"):
        find_source(Branch(run=copied, step=4), alone)


def test_a_checkpoint_that_the_source_has_removed_is_one_line_that_lists_what_there_is(
    copied, alone, tmp_path
):
    with pytest.raises(ConfigError, match=r"no whole checkpoint of step 5; there are 3, 4$"):
        check_branch(config(tmp_path / "new", copied, step=5))
    shutil.rmtree(copied / "checkpoints/step-00000003")
    with pytest.raises(ConfigError, match=r"no whole checkpoint of step 3; there are 4$"):
        find_source(Branch(run=copied, step=3), alone)
    shutil.rmtree(copied / "checkpoints/step-00000004")
    with pytest.raises(DataError, match=r"no whole checkpoint; it has none yet$"):
        check_branch(config(tmp_path / "new", copied))


def test_what_cannot_be_branched_from_is_refused_before_torch(copied, tmp_path):
    new = tmp_path / "new"
    check_branch(config(new, copied))
    with pytest.raises(ConfigError, match="found the run's own folder"):
        check_branch(config(tmp_path / "own", tmp_path / "own"))
    with pytest.raises(ConfigError, match=r"holds no config\.yaml"):
        check_branch(config(new, tmp_path))
    with pytest.raises(ConfigError, match=r"optimizer\.name: found lion, .* the moments of adamw"):
        check_branch(config(new, copied, optimizer__name="lion"))
    values = yaml.safe_load((copied / "config.yaml").read_text())
    for key, value in (("lora", {"rank": 4}), ("freeze", ["*.wte"])):
        values["model"] = {"path": "somewhere", key: value}
        (copied / "config.yaml").write_text(yaml.safe_dump(values))
        with pytest.raises(ConfigError, match=rf"part of its model \(model.{key}\).*export"):
            check_branch(config(new, copied))


def test_a_run_with_checkpoints_of_its_own_asks_nothing_of_the_source(copied, tmp_path):
    shutil.copytree(copied / "checkpoints", tmp_path / "new/checkpoints")
    mine = config(tmp_path / "new", tmp_path / "gone")
    check_branch(mine)
    assert model_folder(mine) == tmp_path / "new/model"
    assert model_folder(config(tmp_path / "fresh", copied)) == copied / "model"


def test_what_a_run_began_with_is_compared_as_long_as_it_is_there(copied):
    path = copied / "checkpoints/step-00000003"
    began = identity(path)
    assert began == {"step": 3, "manifest": sha256_file(path / "manifest.json")}
    for step in (None, 3):
        assert identity_at_resume(Branch(run=copied, step=step), began) == began
    assert identity_at_resume(Branch(run=copied, step=4), began) != began
    (path / "manifest.json").write_text("{}")  # another run's
    assert identity_at_resume(Branch(run=copied, step=3), began) != began
    shutil.rmtree(path)  # the source has gone on
    assert identity_at_resume(Branch(run=copied, step=3), began) == began
