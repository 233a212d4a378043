"""A corpus of words and a tokenizer trained on it."""

import random
from pathlib import Path

import pytest

from data_prep.config import TrainTokenizer
from data_prep.documents import DocumentWriter, empty_metadata
from data_prep.tokenizer.train import train_tokenizer

SYLLABLES = ["car", "dio", "myo", "pa", "thy", "neph", "ro", "lo", "gy", "he", "mo", "glo", "bin"]


def words(seed: int, number: int) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices(SYLLABLES, k=draw.randint(1, 5))) for _ in range(number))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A curated file of 200 documents of 50 words."""
    path = tmp_path_factory.mktemp("corpus") / "train.jsonl.zst"
    with DocumentWriter(path) as writer:
        for number in range(200):
            text = words(number, 50)
            record = {"id": f"text:{number}", "text": text, "source": "words"}
            writer.write(record | {"metadata": empty_metadata()})
    return path


@pytest.fixture(scope="session")
def tokenizer(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a byte-level BPE of 400 ids."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([corpus], 100_000, TrainTokenizer(vocab_size=400), folder)
    return folder
