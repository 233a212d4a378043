import pytest

from tests.data_prep.curate.extracted import Corpus


@pytest.fixture
def corpus(tmp_path):
    return Corpus(tmp_path / "corpus", validation_fraction=0.5)
