"""Fertility: tokens a word, a character and a byte, by source and language, before and after."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from data_prep import commands
from data_prep.errors import ConfigError, DataError
from data_prep.files import read_json
from data_prep.run.executor import run_stage
from data_prep.tokenizer import fertility
from data_prep.tokenizer.train import TokenizerStage
from tests import small_sentencepiece
from tests.data_prep.tokenizer.stages import Curated, config
from tests.small_sentencepiece import CHINESE, MEDICAL

ENGLISH = ["metformin and haemoglobin in nephropathy", "the patient, the doctor"] * 20
HAN = ["".join(CHINESE) + "。"] * 20
MESH = ["Nephropathy/drug therapy", "Metformin", "Nephropathy"]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of English and Chinese whose tokenizer extends a base that knows neither well."""
    folder = tmp_path_factory.mktemp("fertility")
    base = small_sentencepiece.base_tokenizer(folder / "base")
    output = folder / "output"
    run_stage(Curated(output, {"english/a": ENGLISH}, language="eng", mesh=MESH))
    # The stage takes what it does not know for left over: its unit is moved away while the other is written.
    (output / "curate" / "english").rename(folder / "english")
    run_stage(Curated(output, {"chinese/a": HAN}, language="chi"))
    (folder / "english").rename(output / "curate" / "english")
    values = {"extend": {"path": str(base), "new_pieces": 100}}
    corpus = config(output, values)
    format_of = next(iter(corpus.sources.values()))
    sources = {"english": format_of, "chinese": format_of}
    run_stage(TokenizerStage(corpus.model_copy(update={"sources": sources})))
    return output


@pytest.fixture(scope="module")
def figures(output: Path) -> dict[str, Any]:
    commands.COMMANDS["fertility"]([str(output)])
    return read_json(output / "fertility.json")


def test_rates_are_those_of_sentencepiece_before_and_after(
    output: Path, figures: dict[str, Any]
) -> None:
    models = {
        "corpus (base)": output.parent / "base" / "tokenizer.model",
        "corpus": output / "tokenizer" / "model" / "tokenizer.model",
    }
    assert [about["name"] for about in figures["tokenizers"]] == list(models)
    # Chinese: its 20 characters; punctuation is no word.
    texts = {"chinese": (HAN, len("".join(CHINESE)) * 20), "english": (ENGLISH, (5 + 4) * 20)}
    for about, path in zip(figures["tokenizers"], models.values(), strict=True):
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        groups = about["groups"]
        assert [(g["source"], g["language"]) for g in groups] == [
            ("chinese", "chi"),
            ("english", "eng"),
        ]
        for group in groups:
            own, words = texts[group["source"]]
            tokens = sum(map(len, model.encode(own)))
            assert group["tokens"] == tokens
            assert group["tokens_per_word"] == pytest.approx(tokens / words)
            assert group["tokens_per_character"] == pytest.approx(tokens / sum(map(len, own)))
            size = sum(len(text.encode()) for text in own)
            assert group["bytes_per_token"] == pytest.approx(size / tokens)


def test_words_of_mesh_headings_are_the_domain_and_those_that_became_whole_are_named(
    figures: dict[str, Any],
) -> None:
    assert figures["domain_words"] == {
        "origin": "mesh",
        "number": 4,
    }  # nephropathy, drug, therapy, metformin
    before, after = figures["tokenizers"]
    assert (before["whole_words"], after["whole_words"]) == (0, 2)
    assert before["whole_in_the_corpus_only"] == ["nephropathy", "metformin"]  # by frequency
    assert after["whole_in_the_corpus_only"] == []


def test_without_headings_the_most_frequent_long_words_are_the_domain(tmp_path: Path) -> None:
    run_stage(Curated(tmp_path, {"words/a": [" ".join(MEDICAL), "thyroglobulin, thin"]}))
    figures = fertility.measure(tmp_path, [small_sentencepiece.base_tokenizer(tmp_path / "base")])
    assert figures["domain_words"] == {"origin": "long words", "number": len(MEDICAL)}


def test_the_sample_is_bounded_and_taken_from_all_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fertility, "SAMPLE_CHARACTERS", 1_000)
    run_stage(Curated(tmp_path, {f"words/{name}": [name * 100] * 50 for name in "abcd"}))
    figures = fertility.measure(tmp_path, [small_sentencepiece.base_tokenizer(tmp_path / "base")])
    [sample] = figures["sample"]
    # 250 characters of each unit are reached by its third text.
    assert (sample["documents"], sample["characters"]) == (12, 1_200)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found no curated documents"):
        fertility.measure(tmp_path, [])
    run_stage(Curated(tmp_path, {"words/a": ["text"]}))
    with pytest.raises(ConfigError, match="has no tokenizer yet"):
        fertility.measure(tmp_path, [])
    run = subprocess.run(
        [sys.executable, "-m", "data_prep", "fertility"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    expected = "expected OUTPUT [TOKENIZER ...] after it, found nothing"
    assert run.stderr == f"fertility: {expected}; see python -m data_prep --help\n"
