"""JATS files: metadata, licences, retractions, wrappers, broken files, and real articles."""

import re
from pathlib import Path

import pytest
from lxml import etree

from data_prep.documents import Reject, empty_metadata
from data_prep.errors import DataError
from data_prep.sources.jats.metadata import language_code
from data_prep.sources.jats.reader import extract_articles, read_articles
from tests.data_prep.sources.jats_articles import article, put, read_one


def test_an_article_becomes_title_abstract_and_body_with_all_metadata(tmp_path):
    document = read_one(
        tmp_path,
        "<sec><title>Introduction</title><p>Text.</p></sec>",
        meta="""<pub-date pub-type="ppub"><year>2008</year></pub-date>
        <pub-date pub-type="epub"><year>2007</year></pub-date>
        <pub-date pub-type="nihms-submitted"><year>2006</year></pub-date>
        <abstract><p>About it.</p></abstract>""",
        ids="""<article-id pub-id-type="pmid">42</article-id>
        <article-id pub-id-type="pmc">123</article-id>
        <article-id pub-id-type="doi">10.1000/ABC</article-id>""",
    )
    assert document == {
        "id": "pmcid:PMC123",
        "text": "A title\n\nAbout it.\n\n# Introduction\n\nText.",
        "source": "pmc",
        "metadata": empty_metadata()
        | {
            "pmid": 42,
            "pmcid": "PMC123",
            "doi": "10.1000/abc",
            "journal": "The Journal",
            "year": 2007,
            "language": "eng",
            "publication_types": ["research-article"],
            "kind": "full_text",
            "manuscript": True,
            "abstract": True,
            "sections": ["Introduction"],
        },
    }


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ('<article-id pub-id-type="pmcid">PMC7.1</article-id>', "pmcid:PMC7"),
        ('<article-id pub-id-type="pmid">7</article-id>', "pmid:7"),
        ('<article-id pub-id-type="doi">10.1000/X</article-id>', "doi:10.1000/x"),
        ('<article-id pub-id-type="doi">10.1000.10/X</article-id>', "doi:10.1000.10/x"),
        (f'<article-id pub-id-type="pmid">{2**70}</article-id>', "text:a.xml#1"),
        (f'<article-id pub-id-type="pmc">{2**70}</article-id>', "text:a.xml#1"),
        ('<article-id pub-id-type="publisher-id">x</article-id>', "text:a.xml#1"),
    ],
)
def test_the_id_is_the_best_known_one(tmp_path, ids, expected):
    assert read_one(tmp_path, "<p>x</p>", ids=ids)["id"] == expected


PMC7 = '<article-id pub-id-type="pmcid">PMC7</article-id>'


@pytest.mark.parametrize(
    ("ids", "name", "version"),
    [
        (PMC7 + '<article-id pub-id-type="pmcid-ver">PMC7.2</article-id>', "a.xml", 2),
        ('<article-id pub-id-type="pmcid-ver">PMC7.12</article-id>', "a.xml", 12),
        ('<article-id pub-id-type="pmc">PMC7.3</article-id>', "PMC7.4/PMC7.4.xml", 3),
        (PMC7, "deep/PMC7.2/a.xml", 2),
        (PMC7, "PMC7.3.xml", 3),
        (PMC7, "PMC7.xml", None),
        (PMC7, "PMC77.2/a.xml", None),
        (f'<article-id pub-id-type="pmcid-ver">PMC7.{2**70}</article-id>', "a.xml", None),
    ],
)
def test_the_version_is_that_of_the_ids_or_of_the_path(tmp_path, ids, name, version):
    (document,) = read_articles(put(tmp_path, article("<p>x</p>", ids=ids)), name)
    assert document["metadata"]["version"] == version
    assert document["id"] == "pmcid:PMC7"


@pytest.mark.parametrize(
    ("permissions", "code"),
    [
        ('<license xlink:href="http://creativecommons.org/licenses/by-nd-nc/1.0/"/>', "cc-by-nc-nd-1.0"),
        ('<license xlink:href="https://creativecommons.org/licenses/by-sa-nc/2.0/"/>', "cc-by-nc-sa-2.0"),
        ("<license><p>Creative Commons Attribution License (CC BY-NC 4.0)</p></license>", "cc-by-nc-4.0"),
        ("<license><p>Creative Commons Attribution License CC-BY-NC-ND</p></license>", "cc-by-nc-nd"),
        ("<license><p>Creative Commons Attribution License (CC BY 4.0)</p></license>", "cc-by"),
        ('<license xlink:href="http://creativecommons.org/licenses/by/4.0/"><license-p>x</license-p></license>', "cc-by-4.0"),
        ('<license xlink:href="https://creativecommons.org/licenses/by-nc-nd/3.0/igo/"/>', "cc-by-nc-nd-3.0"),
        ('<license xlink:href="https://creativecommons.org/licenses/BY-SA/4.0"/>', "cc-by-sa-4.0"),
        ("<license><ali:license_ref>https://creativecommons.org/licenses/by-nc/4.0/</ali:license_ref></license>", "cc-by-nc-4.0"),
        ("<ali:free_to_read/><ali:license_ref>http://creativecommons.org/licenses/by/3.0</ali:license_ref>", "cc-by-3.0"),
        ("<license><license-p>See (http://creativecommons.org/licenses/by-nc/3.0/us/).</license-p></license>", "cc-by-nc-3.0"),
        ('<license><license-p><ext-link xlink:href="http://creativecommons.org/licenses/by/2.0">here</ext-link></license-p></license>', "cc-by-2.0"),
        ('<license xlink:href="http://creativecommons.org/publicdomain/zero/1.0/"/>', "cc0"),
        ("<license><p>the Creative Commons Attribution License, which permits</p></license>", "cc-by"),
        ("<license><p>Creative Commons Attribution Non-Commercial No Derivatives License</p></license>", "cc-by-nc-nd"),
        ("<license><p>Creative Commons Attribution-NonCommercial-ShareAlike</p></license>", "cc-by-nc-sa"),
        ("<license><p>under the Creative Commons CC0 public domain dedication</p></license>", "cc0"),
        ("<copyright-statement>Creative Commons Attribution License</copyright-statement>", "cc-by"),
        ('<license xlink:href="http://www.elsevier.com/tdm/userlicense/1.0/"/>', "custom"),
        ("<license><p>Ask us first.</p></license>", "custom"),
        ("<copyright-statement>© 2010 A Society</copyright-statement>", None),
        ("", None),
    ],
)  # fmt: skip
def test_the_licence_is_found_wherever_it_stands(tmp_path, permissions, code):
    meta = f"<permissions>{permissions}</permissions>"
    assert read_one(tmp_path, "<p>x</p>", meta=meta)["metadata"]["licence"] == code


@pytest.mark.parametrize(
    ("kind", "link", "title", "retracted"),
    [
        ("research-article", "retraction-forward", "T", True),
        ("research-article", "retracted-article", "T", True),
        ("research-article", None, "RETRACTED: T", True),
        ("research-article", None, "Retracted Article: T", True),
        ("research-article", None, "[Retracted] T", True),
        ("retracted-article", None, "T", True),
        ("retraction", "retracted-article", "Retraction: T", False),
        ("retraction", "retracted-article", "RETRACTED: T", False),
        ("correction", "retracted-article", "T", False),
        ("editorial", "retraction-forward", "T", True),
        ("research-article", "companion", "Retracted publications in oncology", False),
    ],
)
def test_retracted_articles_are_marked_and_notices_are_not(tmp_path, kind, link, title, retracted):
    meta = f'<related-article related-article-type="{link}"/>' if link else ""
    document = read_one(tmp_path, "<p>x</p>", kind=kind, meta=meta, title=title)
    assert document["metadata"]["retracted"] is retracted
    assert document["metadata"]["publication_types"] == [kind]


@pytest.mark.parametrize(
    ("tag", "code"),
    [("en", "eng"), ("EN", "eng"), ("en-GB", "eng"), ("de", "ger"), ("fr_CA", "fre"), ("zh", "chi"),
     ("es", "spa"), ("nonsense", None), ("xx", None)],
)  # fmt: skip
def test_languages_are_written_as_pubmed_writes_them(tag, code):
    assert language_code(tag) == code


def test_wrapped_namespaced_and_repeated_articles_are_read(tmp_path):
    oai = article("<p>One.</p>").replace(
        "<article ", '<article xmlns="https://jats.nlm.nih.gov/ns/archiving/1.3/" ', 1
    )
    two = article("<p>Two.</p>", ids="")
    wrapped = (
        '<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/"><GetRecord><record><metadata>'
        f'{oai}</metadata></record><record xmlns=""><pmc-articleset>{two}{two}</pmc-articleset></record>'
        "</GetRecord></OAI-PMH>"
    )
    for name in ("w.xml", "w.nxml", "w.xml.gz"):
        documents = list(read_articles(put(tmp_path, wrapped, name)))
        assert [d["id"] for d in documents] == ["pmcid:PMC1", f"text:{name}#2", f"text:{name}#3"]
        assert documents[0]["text"] == "A title\n\nOne."
    (named, *_) = read_articles(put(tmp_path, two, "w.xml"), "PMC1.1/w.xml")
    assert named["id"] == "text:PMC1.1/w.xml#1"


def test_a_malformed_file_of_one_article_is_rejected_with_its_line(tmp_path):
    (reject,) = read_articles(put(tmp_path, article("<p>a\n</sec>")))
    assert isinstance(reject, Reject)
    assert reject.place == "a.xml"
    assert re.match(r"malformed XML: line \d+, column \d+: Opening and ending tag", reject.reason)


def test_a_malformed_file_of_several_articles_is_an_error_not_a_loss(tmp_path):
    good = article("<p>x</p>")
    for text in (f"<s>{good}{good[:-60]}</s>", f"<s>{good[:-60]}{good}</s>", f"<s>{good}"):
        with pytest.raises(DataError, match=r"a\.xml: broken at line"):
            list(read_articles(put(tmp_path, text)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<article><body><p>x</p></body></article>", "no article-meta"),
        ("<article><front><article-meta/></front></article>", "no text"),
        ("<html><body/></html>", "no article"),
    ],
)
def test_what_is_no_article_is_rejected(tmp_path, text, reason):
    (reject,) = read_articles(put(tmp_path, text))
    assert reject.reason.startswith(reason)


def test_named_entities_of_an_unread_dtd_are_kept(tmp_path):
    text = '<!DOCTYPE article PUBLIC "-//NLM//DTD x//EN" "x.dtd">' + article("<p>TGF-&beta;</p>")
    (document,) = read_articles(put(tmp_path, text))
    assert document["text"].endswith("TGF-β")


def test_unknown_elements_keep_their_text_and_are_counted(tmp_path):
    body = "<p>a <novelty>b</novelty> c</p>"
    (extracted,) = extract_articles(put(tmp_path, article(body)))
    assert extracted.document["text"].endswith("a b c")
    assert extracted.unknown_tags == {"novelty": 1}


def test_kept_and_total_characters_of_the_body_are_measured(tmp_path):
    body = "<p>kept it</p><table-wrap><table><tr><td>lost</td></tr></table></table-wrap>"
    (extracted,) = extract_articles(put(tmp_path, article(body)))
    assert (extracted.kept_characters, extracted.body_characters) == (6, 10)


# -- real articles


@pytest.fixture(scope="module")
def articles(real_data):
    paths = sorted(
        path for path in (real_data / "pmc").iterdir() if path.suffix in (".xml", ".nxml")
    )
    return {path: list(extract_articles(path)) for path in paths}


def test_every_real_file_gives_one_document_and_no_latex_preamble(articles):
    assert len(articles) > 60
    for path, extracted in articles.items():
        assert len(extracted) == 1, path
        text = extracted[0].document["text"]
        assert "\\usepackage" not in text
        assert "\\documentclass" not in text
        assert not re.search(r"\[[\s,–-]*\]|[\x00-\x08]", text), path
        assert not extracted[0].unknown_tags, path


def test_paragraphs_of_real_articles_equal_their_plain_text_where_nothing_special_is_in_them(
    articles,
):
    plain = {"italic", "bold", "ext-link", "named-content", "underline"}
    compared = 0
    for path, (extracted,) in articles.items():
        blocks = set(extracted.document["text"].split("\n\n"))
        for element in etree.parse(path).iterfind("body//sec/p"):
            titles = [s.findtext("title") or "" for s in element.iterancestors("sec")]
            skipped = {"Funding", "Pre-publication history", "About the Author"} & set(titles)
            if not skipped and all(e.tag in plain for e in element.iterdescendants()):
                text = " ".join("".join(element.itertext()).replace("\u200b", "").split())
                if text:
                    compared += 1
                    assert text in blocks, (path.name, text)
    assert compared > 300


def test_what_real_bodies_lose_is_tables_references_and_supplements(articles):
    shares = []
    for path, (extracted,) in articles.items():
        body = etree.parse(path).find("body")
        # Comments out, then what is dropped on purpose; the rest must be there nearly whole.
        etree.strip_tags(body, etree.Comment)
        etree.strip_elements(
            body, "table", "table-wrap-foot", "supplementary-material", "object-id", "alternatives",
            "{http://www.w3.org/1998/Math/MathML}math", "ack", with_tail=False,
        )  # fmt: skip
        left = sum(len(re.sub(r"\s", "", text)) for text in body.itertext(etree.Element))
        shares.append(extracted.kept_characters / max(left, 1))
    assert min(shares) > 0.85


def test_ids_and_licences_of_real_articles_are_known(articles):
    licences = [a.document["metadata"]["licence"] for (a,) in articles.values()]
    assert sum(str(code).startswith("cc") for code in licences) >= len(licences) - 2
    for path, (extracted,) in articles.items():
        doi = etree.parse(path).findtext(".//article-meta/article-id[@pub-id-type='doi']")
        assert extracted.document["metadata"]["doi"] == (doi.lower() if doi else None), Path(
            path
        ).name
