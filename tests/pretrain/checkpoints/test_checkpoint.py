"""Which checkpoint a run goes on from, which are kept, and what is said of those that are damaged."""

import json
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_prep.errors import ConfigError, DataError
from pretrain.checkpoints.checkpoint import Checkpoints
from pretrain.checkpoints.layout import bytes_needed, changed, check_loadable, layout_of
from pretrain.checkpoints.names import named_steps, saved_steps, to_remove
from pretrain.checkpoints.zero_shards import copy_range
from pretrain.distributed import Ranks
from tests import tiny
from tests.pretrain.checkpoints import zero_runs

STAGE3 = {"stage": 3}
LAYOUT = layout_of({"zero_optimization": STAGE3}, "adamw", 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one rank that saved steps 1 to 4, keeping two and each third."""
    folder = tmp_path_factory.mktemp("trained")
    do = [1, "save", 1, "save", 1, "save", 1, "save"]
    zero_runs.run(folder, "source", 1, zero=STAGE3, do=do, keep_every=3)
    return folder


@pytest.fixture
def checkpoints(trained: Path, tmp_path: Path, alone: Ranks) -> Checkpoints:
    """A copy of the run's checkpoints, to be damaged."""
    shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
    found = Checkpoints(tmp_path / "checkpoints", alone, LAYOUT, keep=2)
    found.prepare()
    return found


def step(checkpoints: Checkpoints, number: int) -> Path:
    return checkpoints.folder / f"step-{number:08d}"


# ---- what is kept ------------------------------------------------------------------------------


@given(
    st.sets(st.integers(1, 200), max_size=30),
    st.integers(1, 5),
    st.none() | st.integers(1, 50),
)
def test_kept_are_the_newest_and_the_multiples(steps, keep, keep_every):
    removed = set(to_remove(steps, keep, keep_every))
    for number in steps:
        newer = sum(other > number for other in steps)
        multiple = keep_every is not None and number % keep_every == 0
        assert (number in removed) == (newer >= keep and not multiple)


def test_a_run_keeps_what_the_policy_says(trained):
    assert saved_steps(trained / "checkpoints") == [4, 3]
    assert (trained / "checkpoints/latest").read_text() == "step-00000004\n"


def test_what_a_kill_while_removing_left_is_gone_at_the_next_start(checkpoints):
    step(checkpoints, 3).rename(checkpoints.folder / ".step-00000003.removed.partial")
    (checkpoints.folder / ".step-00000005.partial").mkdir()
    checkpoints.prepare()
    assert sorted(path.name for path in checkpoints.folder.iterdir() if path.is_dir()) == [
        "step-00000004"
    ]


# ---- what is damaged ---------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    for file in path.parent.iterdir():
        file.unlink()


OPTIMIZER = "zero_pp_rank_0_mp_rank_00_optim_states.pt"
DAMAGES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "a byte flipped": (OPTIMIZER, flip, "SHA-256"),
    "a file cut": (OPTIMIZER, cut, "bytes, not"),
    "a rank's file missing": (OPTIMIZER, Path.unlink, f"{OPTIMIZER} is missing"),
    "a state that is gone": ("state.json", Path.unlink, "state.json is missing"),
    "a manifest that is garbage": ("manifest.json", lambda path: path.write_text("{"), "readable"),
    "a manifest of something else": ("manifest.json", lambda path: path.write_text("[1]"), "read"),
    "a manifest with a hole": ("manifest.json", lambda p: p.write_text("{}"), "names no state"),
    "a manifest missing": ("manifest.json", Path.unlink, "manifest.json is missing"),
    "an empty folder": ("manifest.json", empty, "manifest.json is missing"),
    "a file of nothing": (OPTIMIZER, lambda path: path.write_bytes(b""), "has 0 bytes"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_in_one_line_and_an_older_one_is_found(checkpoints, damage):
    name, break_it, told = DAMAGES[damage]
    break_it(step(checkpoints, 4) / name)
    found, said = checkpoints.newest()
    assert found == step(checkpoints, 3)
    assert len(said) == 1
    assert "step-00000004 is damaged and is passed over" in said[0]
    assert told in said[0]
    assert "\n" not in said[0]
    assert (checkpoints.folder / "damaged-step-00000004").is_dir()
    assert (checkpoints.folder / "latest").read_text() == "step-00000003\n"


@pytest.mark.parametrize("content", [None, "", "step-99999999\n", "\0garbage"])
def test_the_pointer_latest_is_not_what_is_believed(checkpoints, content):
    latest = checkpoints.folder / "latest"
    latest.unlink() if content is None else latest.write_text(content)
    assert checkpoints.newest() == (step(checkpoints, 4), [])
    assert latest.read_text() == "step-00000004\n"


def test_a_run_does_not_begin_anew_where_no_whole_checkpoint_is_left(checkpoints):
    for number in (3, 4):
        flip(step(checkpoints, number) / OPTIMIZER)
    for _ in range(2):  # the next start is told the same
        with pytest.raises(DataError, match="no whole checkpoint is left") as caught:
            checkpoints.newest()
        told = str(caught.value)
        assert "damaged-step-00000003 and damaged-step-00000004 and latest" in told
        assert "\n" not in told
    for path in [*checkpoints.folder.glob("damaged-*"), checkpoints.folder / "latest"]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert checkpoints.newest() == (None, [])  # the user's decision


def test_folders_of_other_names_are_no_checkpoints(tmp_path):
    for name in ("step-00000012", "step-12", "step-0000001x", "damaged-step-00000013", "other"):
        (tmp_path / name).mkdir()
    assert named_steps(tmp_path) == [12]


# ---- disks that are full -----------------------------------------------------------------------


def test_a_save_that_the_disk_ends_says_so_and_the_earlier_one_stays(trained, tmp_path):
    """The limit on file sizes stops the writer in mid-file, where the check of free space saw room."""
    shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
    largest = (tmp_path / "checkpoints/step-00000004" / OPTIMIZER).stat().st_size
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, hard))
    try:
        told = zero_runs.failure(tmp_path, "full", zero=STAGE3, do=[1, "save"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert "checkpoint of step 5: could not be written" in told
    assert "earlier checkpoints are whole" in told
    assert named_steps(tmp_path / "checkpoints") == [4, 3]
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.long
def test_a_full_file_system_is_found_before_anything_is_written(trained, tmp_path):
    small = tmp_path / "checkpoints"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    try:
        told = zero_runs.failure(tmp_path, "full", zero=STAGE3, do=[1, "save"])
        assert "has 0.00 GB free, earlier checkpoints are whole" in told
        assert not list(small.glob("step-*"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.long
@pytest.mark.parametrize("zero", [{"stage": 1}, {"stage": 3}], ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adamw", "lion"])
def test_the_space_asked_for_is_that_of_a_checkpoint(zero, precision, optimizer, tmp_path):
    task = {"zero": zero, "precision": precision, "optimizer": optimizer, "width": 256}
    zero_runs.run(tmp_path, "run", 1, do=[1, "save"], **task)
    folder = tmp_path / "checkpoints/step-00000001"
    written = sum(path.stat().st_size for path in folder.iterdir())
    manifest = json.loads((folder / "state.json").read_text())
    asked = bytes_needed(manifest["parameters"], manifest["layout"])
    assert asked == pytest.approx(written, rel=0.1)


# ---- kills -------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_kill_while_saving_leaves_the_earlier_checkpoint(trained, tmp_path):
    shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
    whole = zero_runs.run(tmp_path, "whole", 1, zero=STAGE3, do=[2])
    saves = [1, "save"] * 50
    [rank] = zero_runs.start(tmp_path, "killed", 1, zero=STAGE3, do=saves)
    tiny.wait_for(lambda: list((tmp_path / "checkpoints").glob(".step-*.partial/*.pt")))
    rank.process.send_signal(signal.SIGKILL)
    rank.end()
    steps = named_steps(tmp_path / "checkpoints")
    outcome = zero_runs.run(tmp_path, "after", 1, zero=STAGE3, do=[1])
    assert outcome["said"] == []
    assert list(outcome["losses"]) == [max(steps) + 1]
    if max(steps) == 4:
        assert outcome["losses"][5] == whole["losses"][5]


# ---- layouts -----------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 7), max_size=6), st.data())
def test_a_range_is_copied_across_pieces(sizes, data):
    whole = torch.arange(float(sum(sizes)))
    begin = data.draw(st.integers(0, len(whole)))
    target = torch.full((data.draw(st.integers(0, len(whole) - begin)),), -1.0)
    copy_range(whole.split(sizes), begin, target)
    assert torch.equal(target, whole[begin : begin + len(target)])


def test_more_than_there_is_cannot_be_copied():
    with pytest.raises(ValueError, match="up to 4 of 3"):
        copy_range([torch.zeros(3)], 1, torch.zeros(3))


def test_changes_of_layout_are_told_and_those_that_cannot_be_are_refused():
    settings = {"zero_optimization": {"stage": 1}, "bf16": {"enabled": True}}
    now = layout_of(settings, "adamw", 4)
    assert changed(LAYOUT, LAYOUT) == ""
    assert changed(LAYOUT, now) == "world 1 → 4, stage 3 → 1, precision fp32 → bf16"
    check_loadable(LAYOUT, now, "there")
    with pytest.raises(ConfigError, match=r"optimizer.name: there has the moments of adamw"):
        check_loadable(LAYOUT, now | {"optimizer": "lion"}, "there")
    nvme = {"stage": 3, "offload_optimizer": {"device": "nvme", "nvme_path": "/nvme"}}
    swapped = layout_of({"zero_optimization": nvme}, "adamw", 1)
    with pytest.raises(ConfigError, match=r"offload optimizer none → nvme"):
        check_loadable(LAYOUT, swapped, "there")
    check_loadable(swapped, swapped, "there")
