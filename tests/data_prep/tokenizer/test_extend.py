"""An extended tokenizer is one model file in which the base's ids stay, and text merges further."""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2 as proto

from data_prep.config import ExtendTokenizer
from data_prep.errors import ConfigError, DataError
from data_prep.files import read_json, write_json
from data_prep.run.executor import run_stage
from data_prep.tokenizer.continued_bpe import count_words, learn_characters, learn_merges
from data_prep.tokenizer.encode import load_encoder
from data_prep.tokenizer.existing import copy_tokenizer
from data_prep.tokenizer.extend import base_of
from data_prep.tokenizer.extension import parse_extension
from data_prep.tokenizer.train import TokenizerStage
from data_prep.units import finished
from tests import small_sentencepiece
from tests.data_prep.tokenizer.stages import Curated, as_transformers_reads, config
from tests.data_prep.tokenizer.test_encode import HORRIBLE
from tests.small_sentencepiece import CHINESE, MEDICAL, PLAIN, extended_tokenizer, medical_text

NORMAL = proto.ModelProto.SentencePiece.NORMAL
TEXTS = [medical_text(seed) for seed in range(60)]


def read(folder: Path):  # type: ignore[no-untyped-def]
    model = proto.ModelProto()
    model.ParseFromString((folder / "tokenizer.model").read_bytes())
    return model


def processor(folder: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def expanded(ids: list[int], folder: Path) -> list[int]:
    """Every new id as the base's ids that extension.json gives it."""
    about = read_json(folder / "extension.json")
    size, pieces = about["base_size"], about["pieces"]
    return [old for new in ids for old in ([new] if new < size else pieces[new - size])]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_sentencepiece.base_tokenizer(tmp_path_factory.mktemp("extend") / "base")


@pytest.fixture(scope="module")
def extended(base: Path) -> Path:
    counts = extended_tokenizer(base, base.parent / "extended")
    assert counts["learnt"] == 80
    return base.parent / "extended"


def test_ids_pieces_and_scores_of_the_base_stay(base: Path, extended: Path) -> None:
    old, new = read(base), read(extended)
    assert list(new.pieces)[: len(old.pieces)] == list(old.pieces)
    scores = [piece.score for piece in list(new.pieces)[len(old.pieces) :]]
    assert scores == sorted(set(scores), reverse=True)
    assert max(scores) < min(piece.score for piece in old.pieces)


def test_sentencepiece_transformers_and_the_encoder_give_the_same_ids(extended: Path) -> None:
    texts = [text for text in [*HORRIBLE, *TEXTS] if len(text) < 10_000]
    expected = processor(extended).encode(texts)
    encoder = load_encoder(extended)
    assert encoder._fast is not None
    for fast in (True, False):
        assert [ids.tolist() for ids in encoder.encode(texts, fast)] == expected
    # transformers parses special tokens from text.
    plain = {text: ids for text, ids in zip(texts, expected, strict=True) if "<" not in text}
    loaded = as_transformers_reads(extended, list(plain))
    assert loaded["ids"] == list(plain.values())
    assert loaded["length"] == len(read(extended).pieces)


words = st.sampled_from(
    [*PLAIN, *MEDICAL, *CHINESE, " ", "  ", "\n", "▁", "é", "7", "(", "🧬", "血"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(words, max_size=30), st.sampled_from(["", " "]))
def test_text_is_cut_as_before_and_then_merged_further(extended, base, parts, between) -> None:
    text = between.join(parts)
    ids = _loaded(extended).encode(text)
    assert expanded(ids, extended) == _loaded(base).encode(text)
    assert load_cached(extended).encode([text])[0].tolist() == ids


_models: dict[Path, object] = {}


def _loaded(folder: Path):  # type: ignore[no-untyped-def]
    return _models.setdefault(folder / "tokenizer.model", processor(folder))


def load_cached(folder: Path):  # type: ignore[no-untyped-def]
    if folder not in _models:
        _models[folder] = load_encoder(folder)
    return _models[folder]


def test_digits_stay_alone_as_in_llama(extended: Path, real_data: Path) -> None:
    for folder in (extended, real_data / "tokenizers" / "llama"):
        pieces = [piece.piece for piece in read(folder).pieces if piece.type == NORMAL]
        assert [piece for piece in pieces if any(map(str.isdecimal, piece))] == [
            piece for piece in pieces if piece.isdecimal() and len(piece) == 1
        ]


def test_characters_that_were_bytes_come_first_and_domain_words_become_whole(
    base: Path, extended: Path
) -> None:
    size, model = len(read(base).pieces), processor(extended)
    new = [model.id_to_piece(index) for index in range(size, model.get_piece_size())]
    old = {piece.piece for piece in read(base).pieces}
    counts = Counter(character for text in TEXTS for character in text if character not in old)
    # Not " " and line ends, which are no characters of words.
    expected = {character for character in counts if not character.isspace()}
    assert set(new[: len(expected)]) == expected
    frequencies = [counts[character] for character in new[: len(expected)]]
    assert frequencies == sorted(frequencies, reverse=True)
    assert {"▁nephropathy", "▁haemoglobin", "高血压", "心肌梗死"} <= set(new)


def test_every_learnt_merge_is_of_the_most_frequent_pair(base: Path) -> None:
    """Byte-pair encoding by the definition, from the base's own pieces on."""
    model, text = processor(base), random.Random(1).choices(MEDICAL + PLAIN, k=300)
    learnt = learn_merges(read(base), count_words([" ".join(text)]), 25, 2)
    # Every word behind a space, as in a text; its first piece begins with the space.
    segmented = [[model.id_to_piece(index) for index in model.encode(word)] for word in text]
    assert len(learnt) >= 25
    for merged in learnt[:25]:
        # Bytes are never merged; digits and punctuation end a word.
        pairs = Counter(
            pair
            for word in segmented
            for pair in pairwise(word)
            if all(piece == "▁" or piece.replace("▁", "").isalpha() for piece in pair)
        )
        ways = [pair for pair in pairs if "".join(pair) == merged]
        assert max(pairs[pair] for pair in ways) == max(pairs.values())
        segmented = [_merge(word, ways) for word in segmented]


def _merge(word: list[str], ways: list[tuple[str, str]]) -> list[str]:
    done: list[str] = []
    for piece in word:
        if done and (done[-1], piece) in ways:
            done[-1] += piece
        else:
            done.append(piece)
    return done


def test_extension_json_says_what_new_ids_were_under_the_base(base: Path, extended: Path) -> None:
    where = extended / "extension.json"
    about = parse_extension(where.read_bytes(), where)
    assert about.base_size == load_encoder(base).vocabulary_size
    assert about.base_fingerprint == load_encoder(base).fingerprint
    assert about.size == load_encoder(extended).vocabulary_size
    new, old = processor(extended), processor(base)
    for index, ids in enumerate(about.pieces, start=about.base_size):
        assert old.decode(ids) == new.decode([index])


def test_a_model_with_another_conversion_of_the_base_is_known_by_that(
    base: Path, tmp_path: Path
) -> None:
    # As in folders from the hub: tokenizer.json merges runs of spaces in another way than tokenizer.model.
    own = tmp_path / "own"
    shutil.copytree(base, own)
    content = read_json(own / "tokenizer.json")
    content["model"]["merges"] = [pair for pair in content["model"]["merges"] if pair != ["▁", "▁"]]
    write_json(own / "tokenizer.json", content)
    assert load_encoder(own).fingerprint != load_encoder(base).fingerprint
    extended_tokenizer(own, tmp_path / "new")
    about = read_json(tmp_path / "new" / "extension.json")
    assert about["base_fingerprint"] == load_encoder(own).fingerprint


def test_threads_and_hash_seeds_change_no_byte(base: Path, extended: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.small_sentencepiece import extended_tokenizer;"
        "extended_tokenizer(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    for name, variables in {
        "alone": {"TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "1"},
        "threads": {"RAYON_NUM_THREADS": "4", "PYTHONHASHSEED": "2"},
    }.items():
        folder = tmp_path / name
        command = [sys.executable, "-c", code, str(base), str(folder)]
        subprocess.run(command, env=os.environ | variables, check=True)
        for path in extended.iterdir():
            assert (folder / path.name).read_bytes() == path.read_bytes()


def test_it_goes_with_a_copied_tokenizer_and_the_base_comes_back_out_of_it(
    base: Path, extended: Path, tmp_path: Path
) -> None:
    for name in ("copy", "base", "none"):
        (tmp_path / name).mkdir()
    copy_tokenizer(extended, tmp_path / "copy")
    assert (tmp_path / "copy" / "extension.json").read_bytes() == (
        extended / "extension.json"
    ).read_bytes()
    assert base_of(tmp_path / "copy", tmp_path / "base")
    assert load_encoder(tmp_path / "base").fingerprint == load_encoder(base).fingerprint
    assert not base_of(base, tmp_path / "none")


def test_pieces_of_another_model_are_added_in_its_order_those_that_text_cannot_give_left_out(
    base: Path, tmp_path: Path
) -> None:
    other = proto.ModelProto()
    known = {piece.piece for piece in read(base).pieces}
    assert not known & {"q", "肝", "x", "z"}
    wanted = ["肝", "炎", "肝炎", "qzx", "▁the", "肝炎高", "q"]
    # "qzx" has no pieces to be merged of; "高", which "肝炎高" is spelt with, is no piece anywhere.
    for rank, text in enumerate(wanted):
        other.pieces.add(piece=text, score=-rank)
    other.pieces.add(piece="<control>", type=proto.ModelProto.SentencePiece.CONTROL)
    (tmp_path / "other.model").write_bytes(other.SerializeToString())
    counts = extended_tokenizer(
        base, tmp_path / "new", new_pieces=0, pieces=tmp_path / "other.model"
    )
    assert (counts["taken"], counts["learnt"], counts["unreachable"]) == (4, 0, 2)
    pieces = [piece.piece for piece in read(tmp_path / "new").pieces]
    assert pieces[len(known) :] == ["肝", "炎", "肝炎", "q"]
    assert processor(tmp_path / "new").encode("肝炎", out_type=str)[-1] == "肝炎"


def test_pieces_are_learnt_on_top_of_those_that_were_added(base: Path, tmp_path: Path) -> None:
    other = proto.ModelProto()
    for text in ("高", "血", "压", "血压"):
        other.pieces.add(piece=text)
    (tmp_path / "other.model").write_bytes(other.SerializeToString())
    counts = extended_tokenizer(
        base, tmp_path / "new", new_pieces=40, pieces=tmp_path / "other.model"
    )
    assert (counts["taken"], counts["learnt"]) == (4, 40)
    assert processor(tmp_path / "new").encode("\n高血压", out_type=str)[-1] == "高血压"


def test_the_stage_extends_and_does_it_anew_where_the_base_changes(
    base: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(base, own)
    output = tmp_path / "output"
    run_stage(Curated(output, {"words/a": TEXTS[:30], "words/b": TEXTS[30:]}))
    settings = {"extend": {"path": str(own), "new_pieces": 50}}
    assert run_stage(TokenizerStage(config(output, settings))).ran == ["model"]
    counts = finished(output / "tokenizer")[0].counts
    assert counts["vocabulary_size"] == counts["base_size"] + 50
    assert run_stage(TokenizerStage(config(output, settings))).ran == []
    names = read_json(own / "tokenizer_config.json")
    write_json(own / "tokenizer_config.json", names | {"chat_template": "{{ messages }}"})
    assert run_stage(TokenizerStage(config(output, settings))).ran == ["model"]
    kept = read_json(output / "tokenizer" / "model" / "tokenizer_config.json")
    assert kept["chat_template"] == "{{ messages }}"


def test_what_cannot_be_extended_is_refused_by_name(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.extend\.path: found no SentencePiece model"):
        extended_tokenizer(tmp_path, tmp_path / "a")
    (tmp_path / "broken.model").write_bytes(b"no model")
    with pytest.raises(ConfigError, match=r"broken\.model: not a SentencePiece model"):
        extended_tokenizer(tmp_path / "broken.model", tmp_path / "b")
    unigram = read(base)
    unigram.trainer_spec.model_type = proto.TrainerSpec.UNIGRAM
    (tmp_path / "unigram.model").write_bytes(unigram.SerializeToString())
    with pytest.raises(ConfigError, match="is not of the type BPE"):
        extended_tokenizer(tmp_path / "unigram.model", tmp_path / "c")
    larger = tmp_path / "larger"
    shutil.copytree(base, larger)
    content = read_json(larger / "tokenizer.json")
    added = content["added_tokens"]
    added.append(added[-1] | {"id": len(content["model"]["vocab"]), "content": "<pad>"})
    write_json(larger / "tokenizer.json", content)
    with pytest.raises(ConfigError, match="give a folder without added tokens"):
        extended_tokenizer(larger, tmp_path / "d")
    with pytest.raises(
        ConfigError, match=r"tokenizer\.extend\.pieces: found no SentencePiece model"
    ):
        extended_tokenizer(base, tmp_path / "f", pieces=tmp_path / "nowhere")
    with pytest.raises(DataError, match="nothing to add"):
        extended_tokenizer(base, tmp_path / "e", texts=["no pair here twice"], min_frequency=99)
    with pytest.raises(ValueError, match="give new_pieces"):
        ExtendTokenizer(path=base)


def test_a_broken_extension_json_is_named(extended: Path) -> None:
    about = json.loads((extended / "extension.json").read_text())
    for wrong in (b"{", b"{}", json.dumps(about | {"pieces": [[about["base_size"]]]}).encode()):
        with pytest.raises(DataError, match=r"some/extension\.json: "):
            parse_extension(wrong, "some/extension.json")


def test_llama_is_extended_by_medical_chinese(real_data: Path, tmp_path: Path) -> None:
    path = real_data / "instruct" / "chinese_medical_dialogue_sample.csv"
    rows = csv.DictReader(path.read_text(encoding="gb18030", errors="replace").splitlines())
    chinese = [f"{row['ask']}\n{row['answer']}" for row in rows][:3_000]
    lines = (real_data / "general" / "arxiv.jsonl").read_text(encoding="utf-8").splitlines()
    english = [json.loads(line)["text"][:10_000] for line in lines[:40]]
    llama = real_data / "tokenizers" / "llama"
    counts = extended_tokenizer(llama, tmp_path / "new", [*chinese, *english], new_pieces=3_000)
    assert (counts["learnt"], counts["base_size"]) == (3_000, 32_000)
    old, new, encoder = (
        processor(llama),
        processor(tmp_path / "new"),
        load_encoder(tmp_path / "new"),
    )
    assert encoder._fast is not None
    texts = [*chinese[:500], *english]
    ids = new.encode(texts)
    assert [one.tolist() for one in encoder.encode(texts)] == ids
    before = old.encode(texts)
    assert [expanded(one, tmp_path / "new") for one in ids] == before
    assert sum(map(len, ids[:500])) < 0.5 * sum(map(len, before[:500]))


def test_the_rarest_characters_stay_bytes_where_the_coverage_allows_it(base: Path) -> None:
    words = Counter({"高血": 900, "压": 90, "症": 9, "炎": 1})  # 1,900 characters
    assert learn_characters(read(base), words, 1, 1.0) == ["高", "血", "压", "症", "炎"]
    assert learn_characters(read(base), words, 2, 1.0) == ["高", "血", "压", "症"]
    # 10 of 1,900 are 0.53 %.
    assert learn_characters(read(base), words, 1, 0.994) == ["高", "血", "压"]
    assert learn_characters(read(base), words, 1, 0.995) == ["高", "血", "压", "症"]
