"""What JATS and PMC's list say about an article beyond its text: links, notices, manuscripts, scans, licences."""

from collections import Counter

import pytest

from data_prep.documents import Reject
from data_prep.source_config import Jats
from data_prep.sources.jats.reader import Article, article_document
from tests.data_prep.sources.jats_articles import article, extract_one


def metadata_of(tmp_path, **parts):
    return extract_one(tmp_path, **{"body": "<p>x</p>", **parts})["metadata"]


def properties(**values):
    return "<custom-meta-group>" + "".join(
        f"<custom-meta><meta-name>{name.replace('_', '-')}</meta-name><meta-value>{value}</meta-value></custom-meta>"
        for name, value in values.items()
    ) + "</custom-meta-group>"  # fmt: skip


@pytest.mark.parametrize(
    ("related", "link"),
    [
        ('related-article-type="retracted-article" ext-link-type="pubmed" xlink:href="123"', ("RetractionOf", 123)),
        ('related-article-type="retraction-forward" ext-link-type="pmid" xlink:href="7"', ("RetractionIn", 7)),
        ('related-article-type="retraction-forward" ext-link-type="pubmed" xlink:href="https://pubmed.ncbi.nlm.nih.gov/77/"', ("RetractionIn", 77)),
        ('related-article-type="corrected-article" ext-link-type="doi" xlink:href="10.1/123"', ("ErratumFor", None)),
        ('related-article-type="correction-forward"', ("ErratumIn", None)),
        ('related-article-type="object-of-concern" ext-link-type="pubmed" xlink:href="99999999999"', ("ExpressionOfConcernFor", None)),
        ('related-article-type="commentary-article"', ("CommentOn", None)),
        ('related-article-type="preprint"', ("UpdateOf", None)),
        ('related-article-type="companion"', None),
        ("", None),
    ],
)  # fmt: skip
def test_related_articles_are_named_as_pubmed_names_them(tmp_path, related, link):
    metadata = metadata_of(tmp_path, meta=f"<related-article {related}/>")
    assert metadata["links"] == ([{"type": link[0], "pmid": link[1]}] if link else [])


def test_the_pmid_of_a_related_article_may_stand_inside_it(tmp_path):
    related = """<related-article related-article-type="retraction-forward" ext-link-type="pmc" xlink:href="PMC1">
    <pub-id pub-id-type="doi">10.1/1</pub-id><pub-id pub-id-type="pmid">37744561</pub-id></related-article>"""
    links = metadata_of(tmp_path, meta=related)["links"]
    assert links == [{"type": "RetractionIn", "pmid": 37744561}]


@pytest.mark.parametrize(
    ("kind", "link", "notice"),
    [
        ("research-article", "companion", False),
        ("research-article", "retraction-forward", False),
        ("retraction", "retracted-article", True),
        ("correction", "corrected-article", True),
        ("expression-of-concern", "object-of-concern", True),
        ("addendum", "addended-article", True),
        ("other", "corrected-article", True),
        ("other", "companion", False),
        ("letter", "commentary-article", False),
    ],
)
def test_records_about_another_article_are_notices(tmp_path, kind, link, notice):
    meta = f'<related-article related-article-type="{link}"/>'
    assert metadata_of(tmp_path, kind=kind, meta=meta)["notice"] is notice


NIHMS = '<article-id pub-id-type="manuscript">nihpa1</article-id>'


@pytest.mark.parametrize(
    ("meta", "mark", "manuscript"),
    [
        ("", "", False),
        (NIHMS, "", True),
        ("", "<?properties manuscript?>", True),
        ("", "<?properties open_access?>", False),
        ('<pub-date pub-type="nihms-submitted"><year>2020</year></pub-date>', "", True),
        ('<article-id pub-id-type="manuscript-id">NIHMS1</article-id>', "", False),
        (properties(pmc_prop_manuscript="yes"), "", True),
        (properties(is_manuscript="yes"), "", True),
        # The published version has replaced it; the ids of the manuscript are still there.
        (NIHMS + properties(pmc_prop_manuscript="no"), "", False),
    ],
)
def test_author_manuscripts_are_marked(tmp_path, meta, mark, manuscript):
    tally = Counter()
    xml = article("<p>x</p>", meta=meta).replace("<front>", mark + "<front>", 1).encode()
    document = article_document(xml, "a.xml", Jats(), 10**6, None, tally).document
    assert document["metadata"]["manuscript"] is manuscript
    assert tally["manuscripts"] == manuscript


SCAN = '<preformat preformat-type="pmc-ocr-text">First line\nsecond</preformat>'


@pytest.mark.parametrize(
    ("body", "meta", "ocr"),
    [
        (SCAN, "", True),
        (f"<sec><title>Page 1</title>{SCAN}</sec>", "", True),
        (f"<p>Typed.</p>{SCAN}", "", False),
        ("<preformat>verse</preformat>", "", False),
        ("<p>x</p>", properties(pmc_prop_is_ocr_article="yes"), True),
        ("<p>x</p>", properties(pmc_prop_is_scanned_article="yes"), True),
        ("<p>x</p>", properties(pmc_prop_is_scanned_article="no"), False),
        ("", properties(pmc_prop_is_scanned_article="yes"), False),
    ],
)
def test_bodies_that_a_machine_read_are_marked_and_kept(tmp_path, body, meta, ocr):
    tally = Counter()
    document = extract_one(tmp_path, body, meta=meta, tally=tally)
    assert document["metadata"]["ocr"] is ocr
    assert tally["ocr articles"] == ocr
    if "preformat" in body and ocr:
        assert document["text"].endswith("First line\nsecond")


def test_kind_tells_full_texts_from_front_matter(tmp_path):
    assert metadata_of(tmp_path)["kind"] == "full_text"
    front = {"body": "", "meta": "<abstract><p>Only this.</p></abstract>"}
    assert metadata_of(tmp_path, **front)["kind"] == "citation"
    floats = "<floats-group><fig><caption><p>Late.</p></caption></fig></floats-group>"
    assert metadata_of(tmp_path, body="", after=floats)["kind"] == "citation"


def test_subject_headings_among_the_keywords_are_kept(tmp_path):
    groups = """<kwd-group kwd-group-type="author"><kwd>mice</kwd></kwd-group>
    <kwd-group kwd-group-type="MESH"><kwd>Mice, <italic>Inbred</italic></kwd><kwd>Animals</kwd></kwd-group>"""
    assert metadata_of(tmp_path, meta=groups)["mesh"] == ["Mice, Inbred", "Animals"]


def test_what_is_printed_with_an_article_is_counted_and_no_part_of_it(tmp_path):
    tally = Counter()
    after = """<sub-article article-type="reviewer-report"><front-stub/><body><p>Reviewer.</p></body></sub-article>
    <sub-article article-type="translation" xml:lang="fr"><body><p>Vrai.</p></body></sub-article>
    <sub-article article-type="made-up"><body><p>Other.</p></body></sub-article>
    <response response-type="reply"><body><p>Reply.</p></body></response>"""
    document = extract_one(tmp_path, "<p>Body.</p>", after=after, tally=tally)
    assert document["text"] == "A title\n\nBody."
    assert tally == {
        "sub-article reviewer-report": 1,
        "sub-article translation": 1,
        "sub-article other": 1,
        "response reply": 1,
    }


# -- PMC's list


def listed(about, meta="", ids=""):
    tally = Counter()
    xml = article("<p>x</p>", meta=meta, ids=ids).encode()
    record = article_document(xml, "PMC5.1/PMC5.1.xml", Jats(), 10**6, about, tally)
    assert isinstance(record, Article)
    return record.document, tally


def test_what_the_list_knows_is_added(tmp_path):
    about = {
        "pmcid": "PMC5", "version": 2, "pmid": 42, "doi": "10.1000/ABC", "license_code": "CC BY-NC",
        "is_retracted": True, "is_manuscript": True, "is_historical_ocr": True,
    }  # fmt: skip
    document, tally = listed(about)
    wanted = {
        "pmcid": "PMC5", "version": 2, "pmid": 42, "doi": "10.1000/abc", "licence": "cc-by-nc",
        "retracted": True, "manuscript": True, "ocr": True,
    }  # fmt: skip
    assert document["id"] == "pmcid:PMC5"
    assert {key: document["metadata"][key] for key in wanted} == wanted
    assert tally == {"manuscripts": 1, "ocr articles": 1}
    ids = '<article-id pub-id-type="pmid">7</article-id>'
    document, _ = listed({"pmid": None, "license_code": None}, ids=ids)
    assert document["id"] == "pmid:7"
    assert document["metadata"]["licence"] is None


BY = '<license xlink:href="https://creativecommons.org/licenses/by/4.0/"/>'
BY_NC = '<license xlink:href="https://creativecommons.org/licenses/by-nc/4.0/"/>'
OWN = "<license><p>Ask us.</p></license>"


@pytest.mark.parametrize(
    ("own", "code", "licence", "disagreements"),
    [
        (BY, "CC BY", "cc-by-4.0", 0),
        (BY, "CC BY-SA", "cc-by-4.0", 0),
        (BY, "CC BY-NC-ND", "cc-by-nc-nd", 1),
        (BY_NC, "CC BY", "cc-by-nc-4.0", 1),
        (OWN, "CC0", "cc0", 0),
        ("", "CC BY-NC", "cc-by-nc", 0),
        ("", "TDM", "custom", 0),
        (BY, "TDM", "custom", 1),
        (BY, "", "cc-by-4.0", 0),
        (OWN, None, "custom", 0),
    ],
)
def test_of_two_licences_the_more_restrictive_counts(own, code, licence, disagreements):
    meta = f"<permissions>{own}</permissions>"
    document, tally = listed({"license_code": code}, meta=meta)
    assert document["metadata"]["licence"] == licence
    assert tally["licence disagreements"] == disagreements


def test_the_licence_that_pmc_adds_to_the_xml_counts_where_no_other_is_named(tmp_path):
    added = properties(pmc_license_ref="CC BY-ND")
    assert metadata_of(tmp_path, meta=added)["licence"] == "cc-by-nd"
    own = f"<permissions>{BY_NC}</permissions>"
    assert metadata_of(tmp_path, meta=own + added)["licence"] == "cc-by-nc-4.0"


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        (b"", "malformed XML"),
        (b"<article><front>", "malformed XML"),
        (b"<html/>", "no article"),
        (b"<article><front/></article>", "no article-meta"),
        (b"<article>" + b" " * 2000 + b"</article>", "too large: more than 1000 bytes"),
    ],
)
def test_bytes_that_hold_no_article_are_rejected(xml, reason):
    record = article_document(xml, "a.xml", Jats(), 1000, None, Counter())
    assert isinstance(record, Reject)
    assert record.reason.startswith(reason)
