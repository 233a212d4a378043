import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.curate import words as module
from data_prep.curate.words import hash_texts, hash_words, in_batches, run_hashes, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The CD4+ T-cells' count.", "the cd4 t cells count"),
        ("Crohn’s disease—revisited", "crohn s disease revisited"),
        ("snake_case", "snake case"),
        ("1.5 (95% CI 1.2–1.9)", "1 5 95 ci 1 2 1 9"),
        ("Café, CAFE\u0301; naïve Übung", "cafe cafe naive ubung"),
        ("Sjögren Σ-factor İ", "sjogren σ factor i"),
        ("ﬁbrosis Ａ１ 10⁵ µg", "fibrosis a1 105 μg"),
        ("co\u00adoperate zero\u200bwidth", "cooperate zerowidth"),
        ("甲型肝炎的IgM。", "甲 型 肝 炎 的 igm"),
        ("がん、ウイルス", "か ん ウ イ ル ス"),
        ("ไทย", "ไ ท ย"),
        ("고혈압 환자", None),
        ("", ""),
        (" \n\t .,; ", ""),
    ],
)
def test_words_are_normalised(text, expected):
    if expected is None:
        assert len(words(text)) == len(text.split())
    else:
        assert words(text) == expected.split()


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8")))
def test_any_text_has_words_without_spaces_and_in_lower_case(text):
    split = words(text)
    assert all(word and word.lower() == word and not word.isspace() for word in split)
    assert words(" ".join(split)) == split


def test_a_long_text_has_the_words_of_its_pieces(monkeypatch):
    text = "Alpha beta, gamma 1.5 délta " * 50
    whole = words(text)
    monkeypatch.setattr(module, "_PIECE", 64)
    assert words(text) == whole
    assert "".join(words("癌" * 1000)) == "癌" * 1000
    np.testing.assert_array_equal(hash_texts([text])[0], hash_words(whole))


def test_forgetting_words_changes_no_hash(monkeypatch):
    before = hash_words(["one", "two", "three"])
    monkeypatch.setattr(module, "_REMEMBERED", 0)
    np.testing.assert_array_equal(hash_words(["one", "two", "three"]), before)


@pytest.mark.parametrize("length", [1, 2, 5, 13])
@pytest.mark.parametrize("number", [0, 1, 4, 5, 40])
def test_run_hashes_are_polynomials_in_the_words_hashes(length, number):
    hashes = hash_words([f"w{place % 7}" for place in range(number)])
    expected = []
    for first in range(number - length + 1):
        total = 0
        for value in hashes[first : first + length].tolist():
            total = (total * int(module._MULTIPLIER) + value) % 2**64
        expected.append(total)
    assert run_hashes(hashes, length).tolist() == expected


def test_batches_hold_every_document_once_in_order(monkeypatch):
    monkeypatch.setattr(module, "_BATCH", 10)
    documents = [{"id": str(number), "text": "x" * (number % 12)} for number in range(50)]
    batches = list(in_batches(documents))
    assert [document for batch in batches for document in batch] == documents
    assert len(batches) > 10
