"""Encoding is exact, and text never becomes a special token."""

import json
import logging
from pathlib import Path

import gigatoken
import numpy as np
import pytest
import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.implementations import ByteLevelBPETokenizer

from data_prep.errors import ConfigError, DataError
from data_prep.tokenizer.encode import load_encoder

HORRIBLE = [
    "",
    " ",
    "\x00",
    "a\x00b\x00",
    "\n\n \t\r\n",
    "   three spaces, \n  then two",
    "👩‍⚕️🧬🏳️‍🌈",
    "مرض السكري من النوع الثاني",
    "\u200fעברית\u200e mixed \u202ertl\u202c",
    "\u0301 lone combining, e\u0301 and é",
    "ﬁ ligature ① ½ ⅷ",
    "\ufeff\ufffd\uffff\U0010ffff",
    "高血压患者的治疗",
    "<|endoftext|>",
    "</s><s><unk><0x0A>",
    "one<|endoftext|>two</s>three",
    "Ġ Ċ ▁ ▁▁",
    "ACGT" * 5_000,
    "x" * 20_000,
]


@pytest.fixture(params=["trained", "gpt2", "llama"])
def any_tokenizer(request: pytest.FixtureRequest) -> Path:
    if request.param == "trained":
        return request.getfixturevalue("tokenizer")
    return request.getfixturevalue("real_data") / "tokenizers" / request.param


@pytest.mark.parametrize("text", HORRIBLE, ids=lambda text: ascii(text[:20]))
def test_horrible_strings_survive_encoding_and_decoding(text: str, any_tokenizer: Path) -> None:
    encoder = cached(any_tokenizer)
    decoded = encoder.decode(encoder.encode([text])[0])
    # SentencePiece writes spaces as "▁" and cannot tell the two apart.
    expected = text.replace("▁", " ") if any_tokenizer.name == "llama" else text
    assert decoded == expected


def test_special_tokens_are_never_parsed_from_text(any_tokenizer: Path) -> None:
    encoder = cached(any_tokenizer)
    special = {encoder.begin_id, encoder.end_id, encoder.pad_id}
    for ids in encoder.encode(HORRIBLE):
        assert not special & set(ids.tolist())


def test_nothing_is_added_to_a_text(any_tokenizer: Path) -> None:
    encoder = cached(any_tokenizer)
    assert encoder.encode([""])[0].tolist() == []
    assert [len(ids) for ids in encoder.encode(["a", "", "a"])][1] == 0
    assert len(encoder.encode([])) == 0


def test_gpt2_ids_are_those_of_hugging_face(real_data: Path) -> None:
    folder = real_data / "tokenizers" / "gpt2"
    reference = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    encoder = cached(folder)
    assert encoder._fast is not None
    for text, ids in zip(real_texts(real_data), encoder.encode(real_texts(real_data)), strict=True):
        assert ids.tolist() == reference.encode(text).ids
    assert (encoder.vocabulary_size, encoder.begin_id, encoder.end_id) == (50_257, 50_256, 50_256)


def test_llama_ids_are_those_of_sentencepiece(real_data: Path) -> None:
    model = real_data / "tokenizers" / "llama" / "tokenizer.model"
    reference = sentencepiece.SentencePieceProcessor(model_file=str(model))
    encoder = cached(model.parent)
    assert encoder._fast is not None
    texts = [text for text in HORRIBLE if text] + real_texts(real_data)
    for text, ids in zip(texts, encoder.encode(texts), strict=True):
        assert ids.tolist() == reference.encode(text)
    assert (encoder.vocabulary_size, encoder.begin_id, encoder.end_id) == (32_000, 1, 2)
    assert encoder.pad_id == encoder.end_id  # the model has no pad token


def test_a_tokenizer_that_gigatoken_cannot_do_is_encoded_by_tokenizers(tmp_path: Path) -> None:
    whole = Tokenizer(models.WordPiece(unk_token="<unk>"))
    whole.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordPieceTrainer(vocab_size=60, special_tokens=["<unk>", "<s>", "</s>"])
    whole.train_from_iterator(["hepatic hepatitis hepatocyte"] * 10, trainer)
    whole.save(str(tmp_path / "tokenizer.json"))
    encoder = load_encoder(tmp_path)
    assert encoder._fast is None
    assert encoder.encode(["hepatic cyte"])[0].tolist() == whole.encode("hepatic cyte").ids
    assert (encoder.begin_id, encoder.end_id) == (1, 2)


def test_a_wrong_fast_encoder_is_noticed_and_can_be_passed_over(
    tokenizer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = load_encoder(tokenizer)
    expected = encoder.encode(["cardiology"])[0].tolist()
    content = json.loads((tokenizer / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][:3]
    encoder._fast = gigatoken.Tokenizer.from_json(json.dumps(content))
    assert encoder.encode(["cardiology"])[0].tolist() != expected
    with caplog.at_level(logging.WARNING):
        assert not encoder.agrees(["", "cardiology"])
    assert "gigatoken and tokenizers differ on 'cardiology'" in caplog.text
    assert encoder.encode(["cardiology"], fast=False)[0].tolist() == expected


def test_ordinary_added_tokens_keep_their_ids_beside_special_ones(tokenizer: Path) -> None:
    folder = tokenizer.parent / "extended"
    folder.mkdir()
    whole = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    size = whole.get_vocab_size()
    whole.add_special_tokens(["<|user|>"])
    whole.add_tokens(["[DRUG]"])
    whole.save(str(folder / "tokenizer.json"))
    encoder = load_encoder(folder)
    ids = encoder.encode(["[DRUG]<|user|>"])[0].tolist()
    assert encoder._fast is not None
    assert ids[0] == size + 1
    assert size not in ids
    assert encoder.vocabulary_size == size + 2


def test_a_token_that_text_would_give_cannot_end_documents(tokenizer: Path) -> None:
    folder = tokenizer.parent / "unmarked"
    folder.mkdir()
    whole = json.loads((tokenizer / "tokenizer.json").read_text())
    whole["added_tokens"][0]["special"] = False
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(DataError, match="mark it as special"):
        load_encoder(folder)


def test_a_folder_without_a_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected tokenizer\.json, vocab\.json"):
        load_encoder(tmp_path)


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path: Path) -> None:
    whole = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    whole.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match="no end token is named"):
        load_encoder(tmp_path)


_cache: dict[Path, object] = {}


def cached(folder: Path):  # type: ignore[no-untyped-def]
    """Loading takes half a second; the encoder does not change."""
    if folder not in _cache:
        _cache[folder] = load_encoder(folder)
    return _cache[folder]


def real_texts(real_data: Path) -> list[str]:
    lines = (real_data / "general" / "arxiv.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"][:20_000] for line in lines[:10]]
    assert np.sum([len(text) for text in texts]) > 10_000
    return texts
