"""Units of work: done once, done again when something that matters changed, never half."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from data_prep.errors import DataError
from data_prep.files import write_json
from data_prep.run.executor import run_stage
from data_prep.units import Stage, Unit, failure_path, failures, finished


class Upper(Stage):
    """Writes each input file in capitals; notes every run in a log."""

    name = "upper"
    version = 1

    def __init__(self, inputs: Path, directory: Path, suffix: str = "", log: Path | None = None):
        self.inputs, self.directory = inputs, directory
        self.settings = {"suffix": suffix}
        self.log = str(log or directory.parent / "log")

    def units(self) -> list[Unit]:
        return [
            Unit(f"texts/{path.stem}", {path.name: path.read_text()}, 1, {"path": str(path)})
            for path in sorted(self.inputs.glob("*.txt"))
        ]

    def run_unit(self, unit: Unit, folder: Path) -> dict[str, Any]:
        with open(self.log, "a") as log:
            log.write(unit.name + "\n")
        text = Path(unit.payload["path"]).read_text()
        if text == "broken":
            raise DataError(f"{unit.payload['path']}: line 1: broken; mend it")
        if text == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        if text == "deadlier":
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        if text == "slow":
            (folder / "half").write_text("half")
            time.sleep(60)
        (folder / "out").write_text(text.upper() + self.settings["suffix"])
        return {"characters": len(text)}


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.txt").write_text(name)
    return folder


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and ".datatrove" not in path.parts and path.name != "run.json"
    }


def test_one_and_two_workers_give_the_same_bytes(inputs, tmp_path):
    for workers in (1, 2):
        run_stage(Upper(inputs, tmp_path / str(workers)), workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert [result.counts["characters"] for result in finished(tmp_path / "1")] == [1, 1, 1]


def test_only_what_changed_is_done_again(inputs, tmp_path):
    stage = Upper(inputs, tmp_path / "out")
    run_stage(stage)
    assert run_stage(stage).ran == []
    (inputs / "b.txt").write_text("changed")
    assert run_stage(stage).ran == ["texts/b"]
    (tmp_path / "out/texts/c/out").write_text("cut s")
    assert run_stage(stage).ran == ["texts/c"]  # its file no longer has the recorded size
    assert len(run_stage(Upper(inputs, tmp_path / "out", suffix="!")).ran) == 3
    (inputs / "a.txt").unlink()
    run_stage(Upper(inputs, tmp_path / "out", suffix="!"))
    assert [result.name for result in finished(tmp_path / "out")] == ["texts/b", "texts/c"]


def test_a_broken_input_stops_its_unit_and_no_other(inputs, tmp_path):
    stage = Upper(inputs, tmp_path / "out")
    run_stage(stage)
    (inputs / "b.txt").write_text("broken")
    report = run_stage(stage, 2)
    assert list(report.failed) == ["texts/b"]
    assert "line 1: broken; mend it" in failures(stage.directory)["texts/b"]
    # What the earlier input gave is gone: it must not pass for this one's.
    assert [result.name for result in finished(stage.directory)] == ["texts/a", "texts/c"]
    (inputs / "b.txt").write_text("mended")
    assert run_stage(stage).ran == ["texts/b"]
    assert failures(stage.directory) == {}


def test_units_of_like_names_fail_apart(tmp_path):
    names = ("a/b__c", "a__b/c", "a/b")
    assert len({failure_path(tmp_path, name) for name in names}) == 3
    for name in names:
        write_json(failure_path(tmp_path, name), {"unit": name, "error": f"why {name}"})
    assert failures(tmp_path) == {name: f"why {name}" for name in names}


def test_a_killed_worker_fails_its_unit_and_hangs_nothing(inputs, tmp_path):
    (inputs / "b.txt").write_text("deadly")
    report = run_stage(Upper(inputs, tmp_path / "out"), 2)
    assert report.ran == ["texts/a", "texts/c"]
    assert "killed (out of memory?)" in report.failed["texts/b"]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_kills_a_process_of_the_pool_fails_its_unit_and_hangs_nothing(
    inputs, tmp_path, workers
):
    (inputs / "a.txt").write_text("deadlier")
    report = run_stage(Upper(inputs, tmp_path / "out"), workers)
    assert report.ran == ["texts/b", "texts/c"]
    assert report.failed == {"texts/a": "the process that schedules it was killed"}


def test_a_killed_stage_leaves_nothing_half_and_goes_on(inputs, tmp_path):
    (inputs / "z.txt").write_text("slow")
    script = (
        "import sys; from pathlib import Path; from tests.data_prep.test_units import Upper\n"
        "from data_prep.run.executor import run_stage\n"
        "run_stage(Upper(Path(sys.argv[1]), Path(sys.argv[2])))"
    )
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", script, inputs, tmp_path / "out"], cwd=root, start_new_session=True
    )
    half = tmp_path / "out/texts"
    deadline = time.monotonic() + 60
    while not list(half.glob(".z.*.partial/half")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert [result.name for result in finished(tmp_path / "out")] == [f"texts/{n}" for n in "abc"]
    (inputs / "z.txt").write_text("quick")
    assert run_stage(Upper(inputs, tmp_path / "out")).ran == ["texts/z"]
    assert not list(half.glob(".*.partial"))
    assert json.loads((half / "z/unit.json").read_text())["counts"] == {"characters": 5}
