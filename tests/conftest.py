"""What all tests share: where real data is, and how a command is run."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real PubMed, PMC and tokenizer files; the test is skipped where there is none."""
    folder = Path(os.environ.get("BIOMED_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set BIOMED_TEST_DATA to a folder that holds it")
    return folder
