"""The server has what its processes need: it passes over a module that is not there without a word."""

import subprocess
import sys

import pytest

from data_prep.pipeline import CORPUS, NAMES
from data_prep.run.server import ALWAYS, MODULES


def test_every_stage_that_runs_units_has_modules() -> None:
    assert set(MODULES) == {*NAMES, *CORPUS} - {"download", "all"}


@pytest.mark.parametrize("modules", [ALWAYS, *MODULES.values()], ids=str)
def test_modules_of_the_server_can_be_imported_alone(modules: tuple[str, ...]) -> None:
    code = f"import {', '.join(modules)}"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
