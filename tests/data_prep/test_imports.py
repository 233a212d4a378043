"""Which packages may import what."""

import subprocess
import sys
from pathlib import Path

from tests.tiny import ROOT


def modules(package: str) -> list[str]:
    paths = sorted((ROOT / package).rglob("*.py"))
    parts = [path.relative_to(ROOT).with_suffix("").parts for path in paths]
    return [".".join(part[:-1] if part[-1] == "__init__" else part) for part in parts]


def test_no_module_of_data_prep_imports_torch():
    names = [name for name in modules("data_prep") if not name.endswith("__main__")]
    script = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print([name for name in ('torch', 'deepspeed') if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[]"


def test_pretrain_reads_shards_and_parses_no_text():
    forbidden = ("data_prep.sources", "data_prep.curate", "data_prep.instruct", "lxml")
    for path in sorted((ROOT / "pretrain").rglob("*.py")):
        text = path.read_text()
        assert not [name for name in forbidden if name in text], path


def test_no_module_is_larger_than_a_reader_holds():
    sizes = {
        path.relative_to(ROOT): len(path.read_text().splitlines())
        for package in ("data_prep", "pretrain", "launch")
        for path in (ROOT / package).rglob("*.py")
    }
    assert {str(path): lines for path, lines in sizes.items() if lines > 400} == {}
    assert sorted(sizes.values())[len(sizes) // 2] < 200
    assert Path("pretrain/trainer.py") in sizes
