"""What `status` and the lines of a log tell about a corpus, while it is made and afterwards."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep import progress
from data_prep.__main__ import main
from data_prep.lock import FolderLock, holder, identity
from data_prep.run.executor import run_stage
from data_prep.run.plan import read_plan, states, tally
from data_prep.units import Unit
from tests import tiny
from tests.data_prep.test_units import Upper, contents


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.console, "width", 200)


def status(target: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command prints, without the table's lines."""
    capsys.readouterr()
    assert main(["status", str(target)]) == 0
    return re.sub(r"[│┃┏┓┡┩└┘━─┬┳╇┴]+", " ", capsys.readouterr().err)


def cells(text: str, stage: str) -> list[str]:
    (line,) = (line.split() for line in text.splitlines() if line.split()[:1] == [stage])
    return line[1:5]


def test_a_run_is_seen_from_outside_while_it_works_and_after_it_was_killed(
    inputs, tmp_path, capsys
):
    folder, output = inputs(a="a", b="broken", c="c", d="slow", e="e"), tmp_path / "out"
    script = (
        "import sys; from pathlib import Path; from tests.data_prep.test_units import Upper\n"
        "from data_prep.run.executor import run_stage; from data_prep.lock import FolderLock\n"
        "lock = FolderLock(Path(sys.argv[2]), 'output'); lock.acquire(0)\n"
        "run_stage(Upper(Path(sys.argv[1]), Path(sys.argv[2]) / 'extract'))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, folder, output], cwd=tiny.ROOT)
    tiny.wait_for(lambda: list(output.glob("extract/texts/.d.*.partial/half")), 60)
    before = contents(output)
    text = status(output, capsys)
    assert contents(output) == before
    assert cells(text, "upper") == ["2", "1", "1", "1"]  # done, failed, running, to do
    assert f"run by process {process.pid} on {identity()['host']}" in text
    assert "extract texts/b: " in text
    assert "line 1: broken; mend it" in text
    process.kill()
    process.wait()
    assert "no run is going on" in status(output, capsys)
    assert "not ended" in text

    inputs(b="b", d="d")
    run_stage(Upper(folder, output / "extract"), 2)
    text = status(output, capsys)
    assert cells(text, "upper") == ["5", "0", "0", "0"]
    assert "not ended" not in text


def test_the_processes_of_a_killed_run_end_with_it(inputs, tmp_path):
    folder, output = inputs(a="slow", b="slow"), tmp_path / "out"
    script = (
        "import sys; from pathlib import Path; from tests.data_prep.test_units import Upper\n"
        "from data_prep.run.executor import run_stage\n"
        "if __name__ == '__main__': run_stage(Upper(Path(sys.argv[1]), Path(sys.argv[2])), 2)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, folder, output], cwd=tiny.ROOT)
    tiny.wait_for(lambda: len(list(output.glob("texts/.*.partial/half"))) == 2, 60)
    below = descendants(process.pid)
    assert len(below) >= 5  # two units, two workers, and what starts them
    process.kill()
    process.wait()
    tiny.wait_for(lambda: not any(map(is_alive, below)), 10)


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [below for child in map(int, children) for below in (child, *descendants(child))]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class OfSources(Upper):
    """The units of two sources, of some gigabytes each."""

    def units(self) -> list[Unit]:
        units = super().units()
        return [
            replace(unit, name=f"{source}/{unit.name}", bytes=10**10)
            for source in SOURCES
            for unit in units
        ]


SOURCES = ("a-source-with-a-long-name", "pubmed")


def test_a_table_of_80_columns_has_a_line_for_each_row(inputs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress.console, "width", 80)
    folder = inputs(a="a", b="broken")
    run_stage(OfSources(folder, tmp_path / "extract"), 2)
    run_stage(Upper(inputs(b="b"), tmp_path / "near_duplicates"))
    lines = status(tmp_path, capsys).splitlines()
    first = next(row for row, line in enumerate(lines) if line.startswith("stage"))
    rows = [line.split() for line in lines[first + 1 : first + 5]]
    assert [row[:5] for row in rows[:3]] == [
        ["upper", "2", "2", "0", "0"],
        ["a-source-with-…", "1", "1", "0", "0"],
        ["pubmed", "1", "1", "0", "0"],
    ]
    assert rows[0][5:9] == ["40.0", "GB", "50", "%"]
    # Nothing is left to do there, and a single source has no row of its own.
    assert rows[3][:5] == ["upper", "2", "0", "0", "0"]
    assert max(map(len, lines[first : first + 5])) <= 80
    assert {"local, 2 at once: upper", "local, 1 at once: upper"} < set(lines)


def test_results_of_earlier_settings_count_as_to_do_until_they_are_replaced(inputs, tmp_path):
    folder, output = inputs(a="a", b="b"), tmp_path / "out"
    run_stage(Upper(folder, output))
    inputs(b="deadly")
    run_stage(Upper(folder, output))
    plan = read_plan(output)
    assert plan is not None
    assert tally(plan, states(output, plan)).units == {"done": 1, "failed": 1}


def test_without_a_terminal_a_line_now_and_then_shows_life(inputs, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(progress, "LINE_S", 0.05)
    run_stage(Upper(inputs(**{f"u{n}": str(n) for n in range(12)}), tmp_path / "out"))
    lines = capfd.readouterr().err.splitlines()
    assert lines
    assert all(re.match(r"upper  \d+/12 units, \d+\.\d MB/s", line) for line in lines)


def test_a_lock_is_seen_without_being_touched(tmp_path):
    assert holder(tmp_path) is None
    script = (
        "import sys, time; from pathlib import Path; from data_prep.lock import FolderLock\n"
        "lock = FolderLock(Path(sys.argv[1]), 'output'); lock.acquire(0)\n"
        "print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], cwd=tiny.ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        owner = holder(tmp_path)
        assert owner is not None
        assert owner["pid"] == process.pid
        assert holder(tmp_path) == owner
    finally:
        process.kill()
        process.communicate()
    assert holder(tmp_path) is None
    FolderLock(tmp_path, "output").acquire(0)


def test_a_folder_that_is_no_corpus_is_refused(tmp_path, capsys):
    assert main(["status", str(tmp_path)]) == 2
    assert main(["status", str(tmp_path / "nowhere.yaml")]) == 2
    for line in capsys.readouterr().err.splitlines():
        assert "expected a corpus config, or the output folder" in line
