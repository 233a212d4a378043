from collections import Counter

import orjson
import pytest

from data_prep.documents import empty_metadata
from data_prep.extract.readers import read_records
from data_prep.source_config import Source
from data_prep.sources.language import detected_language, fill_language


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The patients were treated with aspirin and most of them recovered.", "eng"),
        ("Die Patienten wurden mit Aspirin behandelt und erholten sich meist.", "ger"),
        ("Les patients ont été traités et la plupart d'entre eux ont guéri.", "fre"),
        ("患者接受阿司匹林治疗后，大多数人在三十天内康复，没有出现严重的不良反应。", "chi"),
        ("", None),
        ("12.5 (3.1) 0.04", None),
    ],
)
def test_a_language_is_named_as_pubmed_names_it(text, code):
    assert detected_language(text) == code


def test_the_beginning_of_a_text_decides():
    english = "The patients were treated with aspirin and most of them recovered. " * 40
    german = "Die Patienten wurden mit Aspirin behandelt und erholten sich meist. " * 400
    assert detected_language(english + german) == "eng"


@pytest.mark.parametrize(
    ("stated", "given", "expected"),
    [
        ("fre", "detect", "fre"),
        ("und", "eng", "und"),
        (None, "detect", "eng"),
        (None, "de", "ger"),
        (None, "ger", "ger"),
        (None, None, None),
    ],
)
def test_only_what_is_not_stated_is_filled_in(stated, given, expected):
    text = "The patients were treated with aspirin and most of them recovered."
    document = {"id": "text:a", "text": text, "source": "books", "metadata": empty_metadata()}
    document["metadata"]["language"] = stated
    fill_language(document, Source(format="text", path="books", language=given))
    assert document["metadata"]["language"] == expected


def test_a_source_s_language_and_licence_are_those_of_its_records_that_state_none(tmp_path):
    path = tmp_path / "books.jsonl"
    rows = [{"text": "Ein Text.", "id": "a"}, {"text": "Noch einer.", "id": "b", "terms": "cc0"}]
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    source = Source(
        format="text", path=tmp_path, language="ger", licence="cc-by-4.0",
        fields={"licence": "terms"},
    )  # fmt: skip
    found = [record["metadata"] for record in read_records(path, path.name, source, Counter())]
    assert [about["language"] for about in found] == ["ger", "ger"]
    assert [about["licence"] for about in found] == ["cc-by-4.0", "cc0"]
