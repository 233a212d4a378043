"""The tokenizer that these tests share."""

from pathlib import Path

import pytest

from tests.data_prep.instruct.small_tokenizer import write_tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path / "tokenizer", begins=True)
