from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.config import Curate
from data_prep.curate.filters import (
    FILTERS,
    PASSES,
    failed_filters,
    filter_settings,
    licence_group,
    split_of,
)
from data_prep.demo_corpus import unpack
from data_prep.extract.index import IndexWriter
from data_prep.extract.readers import read_records
from data_prep.source_config import Source
from tests.data_prep.curate.extracted import citation, document

SETTINGS = {
    "languages": ["eng"],
    "require_abstract": True,
    "min_characters": 20,
    "licences": ["commercial", "nlm-terms"],
    "drop_notices": True,
}
ALLOWING = {
    "languages": [],
    "require_abstract": False,
    "min_characters": 0,
    "licences": ["commercial", "noncommercial", "other", "nlm-terms"],
    "drop_notices": False,
}
TEXT = "A title\n\nAn abstract that is long enough."


def reference(document, settings):
    """The name of the first filter that drops a document, decided by the document alone."""
    about = document["metadata"]
    if settings["languages"] and about["language"] not in (None, "und", *settings["languages"]):
        return "language"
    cited = about["kind"] in ("citation", "book")
    if settings["require_abstract"] and cited and not about["abstract"]:
        return "no_abstract"
    if len(document["text"]) < settings["min_characters"]:
        return "too_short"
    if licence_group(about["licence"]) not in settings["licences"]:
        return "licence"
    return "notice" if settings["drop_notices"] and about["notice"] else None


def reasons(documents, settings, folder):
    """What the filters say by the index that extraction writes."""
    with IndexWriter(folder / "index.parquet", None) as index:
        index.documents(documents)
    codes = failed_filters(pq.read_table(folder / "index.parquet"), settings)
    return [None if code == PASSES else FILTERS[code - 1] for code in codes]


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (document(text=TEXT), None),
        (document(text=TEXT, language=None), None),
        (document(text=TEXT, language="und"), None),
        (document(text=TEXT, language="ger"), "language"),
        (citation(1, text=TEXT), None),
        (citation(1, text="A title of twenty characters or more\n\n"), "no_abstract"),
        (citation(1, text="A book alone", kind="book"), "no_abstract"),
        (citation(1, text="An abstract that stands alone, without title", abstract=True), None),
        (citation(1, text="A title that\n\nhas a blank line in it", abstract=False), "no_abstract"),
        (document(text="One paragraph, which is no citation"), None),
        (document(text="A title\n\nShort."), "too_short"),
        (document(text=TEXT, licence="cc-by-nc-4.0"), "licence"),
        (document(text=TEXT, licence=None), "licence"),
        (document(text=TEXT, notice=True), "notice"),
    ],
)
def test_a_document_stays_or_is_dropped_for_its_reason(candidate, reason, tmp_path):
    assert reasons([candidate], SETTINGS, tmp_path) == [reason] == [reference(candidate, SETTINGS)]


def test_what_the_settings_allow_is_not_dropped(tmp_path):
    candidates = [
        citation(1, text="A title", language="ger"),
        document(text="", licence=None),
        document(licence="cc-by-nc-nd", notice=True),
    ]
    assert reasons(candidates, ALLOWING, tmp_path) == [None, None, None]


@pytest.mark.parametrize("settings", [SETTINGS, ALLOWING, SETTINGS | {"require_abstract": False}])
def test_many_documents_at_once_are_dropped_for_the_reasons_of_each_alone(settings, tmp_path):
    rng = np.random.default_rng(7)

    def drawn(*values):
        return values[rng.integers(len(values))]

    candidates = [
        document(
            text="x" * int(rng.integers(40)),
            id=f"text:{number}",
            language=drawn(None, "und", "eng", "ger"),
            licence=drawn(None, "nlm-terms", "custom", "cc-by-4.0", "cc-by-nc-2.0", "cc0"),
            kind=drawn("citation", "book", "full_text", "text"),
            abstract=drawn(True, False),
            notice=drawn(True, False),
        )
        for number in range(500)
    ]
    expected = [reference(candidate, settings) for candidate in candidates]
    assert reasons(candidates, settings, tmp_path) == expected
    assert expected.count(None) > 10


def test_the_documents_of_the_demo_corpus_are_dropped_as_each_alone_would_be(tmp_path):
    unpack(tmp_path / "demo")
    documents = []
    for kind, pattern in (("pubmed", "*.gz"), ("jats", "*.xml")):
        source = Source(format=kind, path=tmp_path / "demo")
        for path in sorted((tmp_path / "demo").rglob(pattern)):
            records = read_records(path, path.name, source, Counter())
            found = (getattr(record, "document", record) for record in records)
            documents += [document for document in found if isinstance(document, dict)]
    settings = filter_settings(Curate(licences=["commercial", "nlm-terms"]))
    expected = [reference(candidate, settings) for candidate in documents]
    assert reasons(documents, settings, tmp_path) == expected
    assert {"language", "no_abstract", "licence", None} <= set(expected)


@pytest.mark.parametrize(
    ("licence", "group"),
    [
        ("cc0", "commercial"),
        ("cc0-1.0", "commercial"),
        ("cc-by", "commercial"),
        ("cc-by-4.0", "commercial"),
        ("cc-by-sa-3.0", "commercial"),
        ("cc-by-nd-2.5", "commercial"),
        ("cc-by-nc", "noncommercial"),
        ("cc-by-nc-4.0", "noncommercial"),
        ("cc-by-nc-sa-3.0", "noncommercial"),
        ("cc-by-nc-nd-4.0", "noncommercial"),
        ("custom", "other"),
        (None, "other"),
        ("nlm-terms", "nlm-terms"),
    ],
)
def test_licences_fall_into_nlm_s_groups(licence, group):
    assert licence_group(licence) == group


def test_about_the_wanted_fraction_is_validation_and_stays_it_at_a_larger_fraction():
    keys = [f"pmid:{number}" for number in range(20_000)]
    small, large = ({k for k in keys if split_of(k, f) == "validation"} for f in (0.01, 0.1))
    # Five standard deviations of a binomial count: sqrt(20,000 * 0.01 * 0.99) = 14.1.
    assert abs(len(small) - 200) < 5 * 14.1
    assert small < large
    assert all(split_of(key, 0) == "train" for key in keys)
