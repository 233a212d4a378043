"""The tokenizer stage trains as BioMedLM did, or takes a tokenizer, and transformers reads the result."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.config import TrainTokenizer
from data_prep.documents import read_documents
from data_prep.errors import ConfigError
from data_prep.run.executor import run_stage
from data_prep.tokenizer.encode import load_encoder
from data_prep.tokenizer.train import TokenizerStage, train_tokenizer
from data_prep.units import finished
from tests.data_prep.tokenizer.stages import Curated, as_transformers_reads, config

TEXTS = [
    "hemoglobin A1c",
    "  two spaces\n\n  then",
    "α-thyroglobin </s> 高血压",
    "\x00",
    "café e\u0301",
]


def test_the_vocabulary_has_the_size_asked_for_and_the_end_token_last(
    corpus: Path, tmp_path: Path
) -> None:
    counts = train_tokenizer([corpus], 100_000, TrainTokenizer(vocab_size=400), tmp_path)
    encoder = load_encoder(tmp_path)
    assert encoder.vocabulary_size == counts["vocabulary_asked_for"] == 400
    assert encoder.begin_id == encoder.end_id == encoder.pad_id == 399
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    assert sorted(vocabulary.values()) == list(range(400))
    assert vocabulary["<|endoftext|>"] == 399


def test_too_little_text_gives_a_smaller_vocabulary_and_says_so(
    corpus: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    texts = {"words/a": [document["text"] for document in read_documents(corpus)][:3]}
    run_stage(Curated(output, texts))
    report = run_stage(TokenizerStage(config(output, {"train": {"vocab_size": 20_000}})))
    assert report.ran == ["model"]
    counts = finished(output / "tokenizer")[0].counts
    assert counts["vocabulary_asked_for"] == 20_000
    assert 257 < counts["vocabulary_size"] < 1_000
    encoder = load_encoder(output / "tokenizer" / "model")
    assert encoder.end_id == encoder.vocabulary_size - 1 == counts["vocabulary_size"] - 1


def test_training_twice_gives_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    # In two processes, because hash seeds and threads differ between them.
    code = (
        "import sys; from pathlib import Path; from data_prep.config import TrainTokenizer;"
        "from data_prep.tokenizer.train import train_tokenizer;"
        "train_tokenizer([Path(sys.argv[1])], 100_000, TrainTokenizer(vocab_size=500), Path(sys.argv[2]))"
    )
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        subprocess.run([sys.executable, "-c", code, str(corpus), str(tmp_path / name)], check=True)
    first, second = (sorted((tmp_path / name).iterdir()) for name in ("first", "second"))
    assert [path.name for path in first] == [path.name for path in second]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_the_sample_is_taken_evenly_over_all_units(tmp_path: Path) -> None:
    texts = {f"words/{name}": [name * 10] * 100 for name in "abcd"}
    run_stage(Curated(tmp_path, texts))
    stage = TokenizerStage(config(tmp_path, {"train": {"sample_bytes": 1_000}}))
    run_stage(stage)
    counts = finished(stage.directory)[0].counts
    assert counts["sample_documents"] == 100  # of 400 with 10 bytes each
    assert counts["sample_bytes"] == 1_000
    vocabulary = json.loads((stage.directory / "model" / "vocab.json").read_text())
    assert {"aa", "bb", "cc", "dd"} <= set(vocabulary)


def test_transformers_reads_the_trained_tokenizer_and_gives_the_same_ids(tokenizer: Path) -> None:
    encoder = load_encoder(tokenizer)
    loaded = as_transformers_reads(tokenizer, TEXTS)
    assert loaded["ids"] == [ids.tolist() for ids in encoder.encode(TEXTS)]
    assert (loaded["begin"], loaded["end"], loaded["length"]) == (399, 399, 400)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_transformers_reads_a_tokenizer_that_was_taken(
    real_data: Path, tmp_path: Path, name: str
) -> None:
    origin = real_data / "tokenizers" / name
    stage = TokenizerStage(config(tmp_path, {"path": str(origin)}))
    assert run_stage(stage).failed == {}
    folder = stage.directory / "model"
    encoder = load_encoder(folder)
    # transformers parses special tokens from text, so no text here holds one.
    texts = [text for text in TEXTS if "</s>" not in text]
    loaded = as_transformers_reads(folder, texts)
    assert loaded["ids"] == [ids.tolist() for ids in encoder.encode(texts)]
    assert (loaded["begin"], loaded["end"]) == (encoder.begin_id, encoder.end_id)
    assert loaded["length"] == encoder.vocabulary_size
    assert encoder.fingerprint == load_encoder(origin).fingerprint


def test_a_folder_without_a_tokenizer_is_a_fault_of_the_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.path: no tokenizer in"):
        TokenizerStage(config(tmp_path, {"path": str(tmp_path)})).units()


def test_the_stage_imports_no_torch(tokenizer: Path) -> None:
    code = "import sys, data_prep.tokenizer.train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
