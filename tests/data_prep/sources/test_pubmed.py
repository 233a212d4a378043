"""PubMed citations: what becomes of each element."""

from collections import Counter

import pytest

from data_prep.documents import Deletion, Reject, empty_metadata
from data_prep.sources.pubmed.reader import parse_citations, read_citations
from data_prep.sources.pubmed.record import without_brackets
from tests.data_prep.sources.pubmed_files import LINKS, MESH, citation, nlm_record, put


def read_one(tmp_path, **parts):
    (document,) = read_citations(put(tmp_path, citation(**parts)))
    return document


def test_a_citation_becomes_title_blank_line_abstract_and_all_metadata(tmp_path):
    document = read_one(
        tmp_path,
        pmid='<PMID Version="2">17</PMID>',
        article="<Language>fre</Language><PublicationTypeList><PublicationType>Review"
        "</PublicationType></PublicationTypeList>",
    )
    assert document == {
        "id": "pmid:17",
        "text": "A title.\n\nSome text.",
        "source": "pubmed",
        "metadata": empty_metadata()
        | {
            "pmid": 17,
            "version": 2,
            "journal": "The journal",
            "year": 1999,
            "language": "fre",
            "publication_types": ["Review"],
            "licence": "nlm-terms",
            "kind": "citation",
            "abstract": True,
        },
    }


@pytest.mark.parametrize(
    "pmid", [f"<PMID>{2**70}</PMID>", f'<PMID Version="{2**40}">17</PMID>', "<PMID>0</PMID>"]
)
def test_a_pmid_that_no_number_of_nlms_can_be_is_rejected_alone(tmp_path, pmid):
    other, deletions = citation(), f"<DeleteCitation>{pmid}<PMID>3</PMID></DeleteCitation>"
    records = list(read_citations(put(tmp_path, citation(pmid=pmid), other, deletions)))
    assert [type(record) for record in records] == [Reject, dict, Reject, Deletion]
    assert records[0].reason.startswith("no PMID")


def test_sections_of_an_abstract_stand_on_their_own_lines_with_their_labels(tmp_path):
    document = read_one(
        tmp_path,
        abstract="""<Abstract>
        <AbstractText Label="Aim &amp; scope" NlmCategory="OBJECTIVE">To <i>see</i>.</AbstractText>
        <AbstractText Label="EMPTY"/>
        <AbstractText>10<sup>5</sup> cells.</AbstractText>
        <CopyrightInformation>Copyright 2020.</CopyrightInformation></Abstract>""",
        after="<OtherAbstract Type='Publisher'><AbstractText>Autre.</AbstractText></OtherAbstract>",
    )
    assert document["text"] == "A title.\n\nAim & scope: To see.\n10⁵ cells."
    assert document["metadata"]["sections"] == ["Aim & scope"]


def test_a_citation_without_abstract_is_its_title_alone(tmp_path):
    assert read_one(tmp_path, abstract="")["text"] == "A title."


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("[Un titre.]", "Un titre."),
        ("[Un titre].", "Un titre."),
        ("[Un titre]", "Un titre"),
        ("[Why?].", "Why?."),
        ("[[3H]thymidine in mice].", "[3H]thymidine in mice."),
        ("[3H]thymidine [letter]", "[3H]thymidine [letter]"),
        ("[3H]thymidine in mice.", "[3H]thymidine in mice."),
        ("A title [letter].", "A title [letter]."),
        ("", ""),
        ("[", "["),
        ("]", "]"),
        ("[]", ""),
    ],
)
def test_a_translated_title_loses_its_brackets_and_no_other_does(title, expected):
    assert without_brackets(title) == expected


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("<ArticleTitle>[A title].</ArticleTitle>", "A title."),
        ("<ArticleTitle/>", "Ein Titel."),
        ("<ArticleTitle>[Not Available].</ArticleTitle>", "Ein Titel."),
    ],
)
def test_the_vernacular_title_serves_only_where_there_is_no_other(tmp_path, title, expected):
    document = read_one(
        tmp_path,
        title=title,
        article="<Language>ger</Language><VernacularTitle>Ein Titel.</VernacularTitle>",
    )
    assert document["text"].split("\n")[0] == expected
    assert document["metadata"]["language"] == "ger"


@pytest.mark.parametrize(
    ("date", "more", "year"),
    [
        ("<PubDate><Year>1999</Year></PubDate>", "<ArticleDate><Year>1998</Year></ArticleDate>", 1999),
        ("<PubDate><MedlineDate>1998 Dec-1999 Jan</MedlineDate></PubDate>", "", 1998),
        ("<PubDate><MedlineDate>Winter</MedlineDate></PubDate>", "<ArticleDate><Year>2001</Year></ArticleDate>", 2001),
        ("", "<ArticleDate><Year>2001</Year></ArticleDate>", 2001),
        ("", "", 2003),
    ],
)  # fmt: skip
def test_the_year_is_the_best_that_the_record_has(tmp_path, date, more, year):
    history = """<History><PubMedPubDate PubStatus="received"><Year>2002</Year></PubMedPubDate>
      <PubMedPubDate PubStatus="pubmed"><Year>2003</Year></PubMedPubDate></History>"""
    assert read_one(tmp_path, date=date, article=more, data=history)["metadata"]["year"] == year


def test_ids_are_the_articles_own_and_never_its_references(tmp_path):
    references = """<ReferenceList><Reference><ArticleIdList><ArticleId IdType="doi">10.1000/ref
      </ArticleId><ArticleId IdType="pmc">PMC999</ArticleId></ArticleIdList></Reference></ReferenceList>"""
    own = """<ArticleIdList><ArticleId IdType="pubmed">17</ArticleId>
      <ArticleId IdType="pmc"> PMC123.2 </ArticleId><ArticleId IdType="doi">10.1000/ABC</ArticleId></ArticleIdList>"""
    for data in (references + own, own + references):
        metadata = read_one(tmp_path, data=data)["metadata"]
        assert (metadata["pmcid"], metadata["doi"]) == ("PMC123", "10.1000/abc")
    metadata = read_one(tmp_path, data=references)["metadata"]
    assert (metadata["pmcid"], metadata["doi"]) == (None, None)


def test_the_doi_may_stand_in_the_article_unless_marked_invalid(tmp_path):
    for valid, doi in (("Y", "10.1000/xyz"), ("N", None)):
        element = f'<ELocationID EIdType="doi" ValidYN="{valid}">https://doi.org/10.1000/XYZ</ELocationID>'
        assert read_one(tmp_path, article=element)["metadata"]["doi"] == doi


@pytest.mark.parametrize(
    ("kind", "link", "retracted"),
    [
        ("Retracted Publication", None, True),
        ("Journal Article", "RetractionIn", True),
        ("Retraction of Publication", "RetractionOf", False),
        ("Journal Article", "CommentIn", False),
    ],
)
def test_retracted_articles_are_marked_and_their_notices_are_not(tmp_path, kind, link, retracted):
    document = read_one(
        tmp_path,
        article=f"<PublicationTypeList><PublicationType>{kind}</PublicationType></PublicationTypeList>",
        after=f"<CommentsCorrectionsList><CommentsCorrections RefType='{link}'><PMID Version='1'>3</PMID>"
        "</CommentsCorrections></CommentsCorrectionsList>"
        if link
        else "",
    )
    assert document["metadata"]["retracted"] is retracted
    assert document["id"] == "pmid:17"


def test_deletions_come_after_the_records_in_file_order(tmp_path):
    block = """<DeleteCitation><PMID Version="1">5</PMID>
      <PMID Version="2">6</PMID><PMID>7</PMID></DeleteCitation>"""
    document, *deletions = read_citations(put(tmp_path, citation(), block))
    assert document["id"] == "pmid:17"
    assert deletions == [Deletion(5, 1), Deletion(6, 2), Deletion(7, 1)]


def test_book_articles_are_documents_and_books_can_be_deleted(tmp_path):
    book = """<PubmedBookArticle><BookDocument><PMID Version="1">20301295</PMID>
      <ArticleIdList><ArticleId IdType="bookaccession">NBK1</ArticleId></ArticleIdList>
      <Book><BookTitle book="gene">GeneReviews</BookTitle><PubDate><Year>1993</Year></PubDate></Book>
      {title}<Language>eng</Language><PublicationType>Review</PublicationType>
      <Abstract><AbstractText Label="CLINICAL">Text.</AbstractText></Abstract></BookDocument>
      <PubmedBookData/></PubmedBookArticle>"""
    deleted = "<DeleteDocument><PMID Version='1'>9</PMID></DeleteDocument>"
    chapter, whole, deletion = read_citations(
        put(
            tmp_path,
            book.format(title="<ArticleTitle book='gene'>A chapter</ArticleTitle>"),
            book.format(title=""),
            deleted,
            root="PubmedBookArticleSet",
        )
    )
    assert chapter["text"] == "A chapter\n\nCLINICAL: Text."
    assert chapter["metadata"] | {"sections": []} == empty_metadata() | {
        "pmid": 20301295,
        "version": 1,
        "journal": "GeneReviews",
        "year": 1993,
        "language": "eng",
        "publication_types": ["Review"],
        "abstract": True,
        "licence": "nlm-terms",
        "kind": "book",
    }
    assert whole["text"] == "GeneReviews\n\nCLINICAL: Text."
    assert deletion == Deletion(9, 1)


@pytest.mark.parametrize("pmid", ["", "<PMID/>", "<PMID>x7</PMID>"])
def test_a_record_without_pmid_is_rejected_by_its_place_and_the_others_stay(tmp_path, pmid):
    first, broken, last = read_citations(
        put(tmp_path, citation(), citation(pmid=pmid), citation(pmid="<PMID>18</PMID>"))
    )
    assert isinstance(broken, Reject)
    assert broken.place == "pubmed26n0001.xml: record 2"
    assert broken.reason.startswith("no PMID")
    assert (first["id"], last["id"]) == ("pmid:17", "pmid:18")


def test_comments_cdata_and_instructions_do_no_harm(tmp_path):
    document = read_one(
        tmp_path,
        pmid="<PMID><!-- a -->17</PMID>",
        title="<ArticleTitle>A <?x y?>title <![CDATA[with <this> & that]]>.</ArticleTitle>",
        abstract="<!-- b --><Abstract><!-- c --><AbstractText>One<!-- d --> two.</AbstractText></Abstract>",
    )
    assert document["text"] == "A title with <this> & that.\n\nOne two."


# -- MeSH, links, languages and other abstracts: read from the characters, and the same by lxml


def read_both(tmp_path, *records):
    """The documents of records in NLM's form, and the tally."""
    path, tally, by_lxml = put(tmp_path, *records), Counter(), Counter()
    documents = list(read_citations(path, tally))
    assert documents == list(parse_citations(path, by_lxml))
    assert +tally == +by_lxml
    return documents, +tally


def test_mesh_headings_are_descriptors_with_each_of_their_qualifiers(tmp_path):
    (document,), _ = read_both(tmp_path, nlm_record())
    assert document["metadata"]["mesh"] == [
        "Animals",
        "Neoplasms/drug therapy",
        "Neoplasms/genetics",
    ]
    assert document["metadata"]["kind"] == "citation"
    (document,), _ = read_both(tmp_path, nlm_record(mesh=""))
    assert document["metadata"]["mesh"] == []


def test_links_to_other_articles_keep_their_kind_and_mark_the_retracted(tmp_path):
    (document,), _ = read_both(tmp_path, nlm_record(links=LINKS))
    assert document["metadata"]["links"] == [
        {"type": "RetractionIn", "pmid": 41},
        {"type": "CommentIn", "pmid": None},
    ]
    assert document["metadata"]["retracted"] is True
    assert document["metadata"]["notice"] is False


@pytest.mark.parametrize(
    "kind",
    [
        "Retraction of Publication",
        "Retraction Notice",
        "Published Erratum",
        "Expression of Concern",
    ],
)
def test_a_record_about_another_article_is_a_notice(tmp_path, kind):
    kinds = f'<PublicationType UI="D1">{kind}</PublicationType>'
    (document,), _ = read_both(tmp_path, nlm_record(types=kinds))
    assert document["metadata"]["notice"] is True
    assert document["metadata"]["retracted"] is False


@pytest.mark.parametrize(
    ("codes", "expected"),
    [(["eng"], "eng"), (["fre", "eng"], "eng"), (["fre", "ger"], "fre"), (["ENG"], "eng"), ([], None)],
)  # fmt: skip
def test_an_article_that_is_also_in_english_is_english(tmp_path, codes, expected):
    language = "".join(f"<Language>{code}</Language>" for code in codes)
    (document,), _ = read_both(tmp_path, nlm_record(language=language))
    assert document["metadata"]["language"] == expected


OTHER = '<OtherAbstract Type="PIP" Language="{}"><AbstractText Label="AIM">{}</AbstractText></OtherAbstract>'


def test_another_english_abstract_serves_only_where_there_is_none(tmp_path):
    other = OTHER.format("fre", "Autre.") + OTHER.format("eng", "Other.")
    documents, tally = read_both(
        tmp_path,
        nlm_record(other=other),
        nlm_record(other=other, abstract=""),
        nlm_record(other=OTHER.format("fre", "Autre."), abstract=""),
        nlm_record(other=other, abstract="", mesh=""),
    )
    texts = [document["text"].partition("\n\n")[2] for document in documents]
    assert texts == ["Some text.", "AIM: Other.", "", "AIM: Other."]
    assert [document["metadata"]["abstract"] for document in documents] == [True, True, False, True]
    assert documents[1]["metadata"]["sections"] == ["AIM"]
    assert tally == {"other abstracts": 4, "other abstracts used": 2}


def test_books_and_dates_in_words_are_counted(tmp_path):
    words = "<MedlineDate>1998 Dec-1999 Jan</MedlineDate>"
    book = "<PubmedBookArticle><BookDocument><PMID>8</PMID></BookDocument></PubmedBookArticle>"
    documents, tally = read_both(
        tmp_path, nlm_record(date=words), book, nlm_record(title="<i>A</i>")
    )
    assert tally == {"books": 1, "medline dates": 1}
    assert [document["metadata"]["kind"] for document in documents] == [
        "citation",
        "book",
        "citation",
    ]


@pytest.mark.parametrize("text", [
    "10<sup>5</sup> cells", "P &lt; 0.05 &amp; more", "P &amp;lt; 0.05", "a\n   b", "a  b ", "soft\u00adhyphen",
    "β \u2003 x\u00a0y", "&#945;-<i>x</i>", "a > b", "x<!-- </AbstractText> -->y", "<![CDATA[<i>]]>", "\t tab", "",
])  # fmt: skip
def test_a_text_of_any_form_is_what_lxml_gives(tmp_path, text):
    abstract = f"<Abstract><AbstractText>{text}</AbstractText></Abstract>"
    (document,), _ = read_both(tmp_path, nlm_record(title=f"T {text}", abstract=abstract))
    assert document["metadata"]["pmid"] == 17


def test_a_pmid_of_more_than_32_bits_is_a_number_like_another(tmp_path):
    (document,), _ = read_both(tmp_path, nlm_record(pmid=str(2**31 + 5)))
    assert document["metadata"]["pmid"] == 2**31 + 5


def test_records_that_stand_twice_are_read_twice(tmp_path):
    documents, _ = read_both(tmp_path, nlm_record(), nlm_record(), nlm_record(version="2"))
    assert documents[0] == documents[1]
    assert documents[0]["metadata"]["mesh"] is not documents[1]["metadata"]["mesh"]
    assert documents[2]["metadata"]["version"] == 2


QUALIFIER = '<QualifierName UI="Q1" MajorTopicYN="N">genetics</QualifierName>'


@pytest.mark.parametrize(
    "parts",
    [
        {"ids": "<ArticleId IdType='doi'>10.1000/xyz</ArticleId>", "located": ""},
        {"language": "<Language/><Language>fre</Language>"},
        {"mesh": "<MeshHeadingList/>"},
        {"mesh": f"<MeshHeadingList><MeshHeading>{QUALIFIER}</MeshHeading></MeshHeadingList>"},
        {"mesh": MESH.replace("Animals</DescriptorName>", f"A</DescriptorName>{QUALIFIER}")},
        {"mesh": MESH.replace(">Neoplasms</DescriptorName>", "/>")},
        {"mesh": MESH.replace("genetics", "a &amp; b")},
        {"links": LINKS.replace('"1">41', '"0">41')},
        {"references": "<ReferenceList/>", "abstract": "<Abstract/>"},
    ],
)
def test_forms_that_fuzzing_found_are_what_lxml_gives(tmp_path, parts):
    (document,), _ = read_both(tmp_path, nlm_record(**parts))
    assert document["id"] == "pmid:17"
