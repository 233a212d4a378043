"""The bundled corpus, made once for all tests that only look at it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.demo_corpus import unpack
from tests.data_prep.test_pipeline import data_prep, write_config


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    unpack(folder)
    return folder


@pytest.fixture(scope="session")
def built(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus made by one worker, from the start, undisturbed; packed by best fit."""
    folder = tmp_path_factory.mktemp("one")
    ended = data_prep(write_config(folder / "corpus.yaml", raw, folder / "corpus"))
    assert ended.returncode == 0, ended.stderr
    return folder / "corpus"


@pytest.fixture
def inputs(tmp_path: Path) -> Callable[..., Path]:
    def make(**texts: str) -> Path:
        folder = tmp_path / "in"
        folder.mkdir(exist_ok=True)
        for name, text in texts.items():
            (folder / f"{name}.txt").write_text(text)
        return folder

    return make
