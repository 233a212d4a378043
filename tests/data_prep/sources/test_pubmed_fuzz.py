"""Records that may have any form, whole and damaged: the fast reader gives what lxml alone gives."""

import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from data_prep.errors import DataError
from data_prep.sources.pubmed.reader import parse_citations, read_citations
from tests.data_prep.sources.pubmed_files import LINKS, MESH, TYPES, nlm_record

HEADS = [
    '<?xml version="1.0" encoding="utf-8"?>\n<PubmedArticleSet>',
    '<?xml version="1.0" encoding="UTF-8"?><!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//x" "http://x/y.dtd">\n<PubmedArticleSet>\n',
    "<PubmedArticleSet>",
    '<?xml version="1.0" encoding="iso-8859-1"?><PubmedArticleSet>',
    '<!DOCTYPE PubmedArticleSet [<!ENTITY x "y">]><PubmedArticleSet>',
    '<PubmedArticleSet xmlns:mml="http://www.w3.org/1998/Math/MathML">',
]
SCRAPS = [
    *("a", "Text of some words", " ", "  ", "\n   ", "\t", "\r\n", "[", "]", "].", ".", ">", "]]>", "é", "β-x", "😀"),
    *("\u00a0", "\u00ad", "\u200b", "\u2003", "\u0085", "\x7f", "\ufffe", "&amp;", "&lt;", "&gt;", "&quot;", "&apos;"),
    *("&amp;amp;", "&amp;lt;", "&#945;", "&#x3b2;", "&alpha;", "&x;", "<i>in vitro</i>", "10<sup>5</sup>", "H<sub>2</sub>O"),
    *("<b><i>x</i> y</b>", "<i/>", "<!-- c -->", "<!-- </PubmedArticle> -->", "<?p i?>", "<![CDATA[<b> & ]]>"),
    *("<![CDATA[</AbstractText></PubmedArticle>]]>", "Not Available", "10.1000/xyz", "PMC12", "1998 Dec", "1999"),
    '<mml:math xmlns:mml="http://www.w3.org/1998/Math/MathML"><mml:mi>x</mml:mi></mml:math>',
]  # fmt: skip
scraps = st.lists(st.sampled_from(SCRAPS), max_size=4).map("".join)
texts = st.just("Plain text.") | scraps
numbers = st.sampled_from(["1", "17", "399296", "0", "007", "", "x", str(2**31), str(2**70), " 5"])


def element(name, inside=texts, attributes=("",)):
    return st.builds(
        lambda attribute, text: f"<{name}{attribute}>{text}</{name}>",
        st.sampled_from(attributes),
        inside,
    ) | st.just(f"<{name}/>")


def several(part, most=3):
    return st.lists(part, max_size=most).map("".join)


sections = several(
    element("AbstractText", texts, ["", ' Label="AIM" NlmCategory="OBJECTIVE"', ' Label=" A  &amp; B"', " Label='x'", ' Label=""', ' Label="A > B"'])
)  # fmt: skip
abstracts = st.one_of(
    element("Abstract", sections),
    st.builds("<Abstract>{}{}</Abstract>".format, sections, element("CopyrightInformation")),
    st.just(""),
)
languages = several(
    element("Language", st.sampled_from(["eng", "fre", "Eng", ""]) | texts)
) | st.just("<Language>eng</Language>")
types = several(
    element(
        "PublicationType",
        st.sampled_from(["Review", "Retracted Publication", "Published Erratum"]) | texts,
        [' UI="D016428"', ""],
    )
)
headings = several(
    st.builds(
        "<MeshHeading>{}{}{}</MeshHeading>".format,
        element("DescriptorName", texts, [' UI="D1" MajorTopicYN="N"', ""]),
        several(element("QualifierName", texts, [' UI="Q1" MajorTopicYN="Y"']), 2),
        st.sampled_from(["", " ", "<!-- x -->"]),
    )
)
comments = several(
    st.builds(
        "<CommentsCorrections{}>{}{}</CommentsCorrections>".format,
        st.sampled_from([' RefType="RetractionIn"', ' RefType="ErratumFor"', "", " RefType='X'"]),
        element("RefSource"),
        element("PMID", numbers, [' Version="1"', ' Version="0"', ""]) | st.just(""),
    )
)
others = st.builds(
    '<OtherAbstract Type="PIP" Language="{}">{}</OtherAbstract>'.format,
    st.sampled_from(["eng", "fre"]),
    sections,
)
identifiers = several(
    element(
        "ArticleId", texts, [' IdType="doi"', ' IdType="pmc"', ' IdType="pii"', " IdType='doi'"]
    )
)
parts = {
    "pmid": st.just("17") | numbers,
    "version": st.just("1") | numbers.filter(str.isalnum),
    "date": st.sampled_from(["<Year>1999</Year>", "<Year>1999</Year><Month>Jan</Month>", "<MedlineDate>1998 Dec-1999 Jan</MedlineDate>", "<MedlineDate>Winter</MedlineDate>", "", "<Year>199</Year>", "<Season>Fall</Season>"]),
    "journal": st.one_of(st.just("<Title>J</Title>"), element("Title"), element("ISOAbbreviation"), st.just("")),
    "title": texts,
    "located": several(element("ELocationID", texts, [' EIdType="doi" ValidYN="Y"', ' EIdType="doi" ValidYN="N"', ' EIdType="pii"'])),
    "abstract": abstracts,
    "authors": st.sampled_from(["", '<AuthorList CompleteYN="Y"><Author><LastName>D</LastName></Author></AuthorList>', "<AuthorList/>", "<!-- <Abstract> -->"]),
    "language": languages,
    "types": types | st.just(TYPES),
    "vernacular": st.one_of(st.just(""), element("VernacularTitle"), st.just("<ArticleDate><Year>2002</Year></ArticleDate>")),
    "links": st.one_of(st.just(""), st.just(LINKS), element("CommentsCorrectionsList", comments)),
    "mesh": st.one_of(st.just(""), st.just(MESH), element("MeshHeadingList", headings)),
    "other": several(others, 2),
    "ids": identifiers,
    "references": st.sampled_from(["", "<ReferenceList/>", '<ReferenceList><Reference><ArticleIdList><ArticleId IdType="doi">10.1000/r</ArticleId><ArticleId IdType="pmc">PMC9</ArticleId></ArticleIdList></Reference></ReferenceList>', "<!-- </PubmedData> -->", "<ObjectList><Object/></ObjectList>"]),
    "indent": st.sampled_from(["", "\n    ", " ", "\r\n"]),
}  # fmt: skip


@st.composite
def records(draw):
    """A record in which most parts are as NLM writes them."""
    chosen = draw(st.lists(st.sampled_from(sorted(parts)), max_size=4, unique=True))
    return nlm_record(**{name: draw(parts[name]) for name in chosen})


BETWEEN = [
    *("", "\n  ", "<!-- <PubmedArticle></PubmedArticle> -->", "<?x y?>", "text", "<Other/>"),
    '<DeleteCitation><PMID Version="1">5</PMID><PMID>0</PMID></DeleteCitation>',
    '<PubmedBookArticle><BookDocument><PMID Version="1">8</PMID><ArticleTitle>B</ArticleTitle></BookDocument></PubmedBookArticle>',
    "<PubmedArticle/>",
    "<PubmedArticle></PubmedArticle>",
]


@st.composite
def files(draw):
    pieces = draw(
        st.lists(st.tuples(records(), st.just("\n") | st.sampled_from(BETWEEN)), max_size=4)
    )
    body = "".join(record + gap for record, gap in pieces)
    head = draw(st.just(HEADS[0]) | st.sampled_from(HEADS))
    return (head + body + "</PubmedArticleSet>\n").encode()


def outcome(reader, data):
    """The records, the tally, and what the file was refused with."""
    found, tally, message = [], Counter(), None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pubmed26n0001.xml"
        path.write_bytes(data)
        try:
            found.extend(reader(path, tally))
        except DataError as error:
            message = str(error).replace(folder, "")
    return found, +tally, message


slow = settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))


def same_as_lxml(data):
    """What lxml reads whole is the same; of what it refuses, the records before that place are.

    The fast reader may see no fault in a part that it skips, or see it later.
    """
    found, tally, message = outcome(read_citations, data)
    by_lxml, tally_of_lxml, refusal = outcome(parse_citations, data)
    if refusal is None:
        assert (found, tally, message) == (by_lxml, tally_of_lxml, None)
    else:
        assert found[: len(by_lxml)] == by_lxml
        if message is not None:
            assert message == refusal


@slow
@given(files())
def test_files_of_any_form_give_what_lxml_gives(data):
    same_as_lxml(data)


@slow
@given(files(), st.data())
def test_damaged_files_give_what_lxml_gives_before_the_damage(data, source):
    damaged = bytearray(data)
    for _ in range(source.draw(st.integers(1, 3))):
        assume(len(damaged) > 2)
        place = source.draw(st.integers(0, len(damaged) - 1))
        match source.draw(st.sampled_from(["flip", "cut", "drop", "insert"])):
            case "flip":
                damaged[place] = source.draw(st.integers(0, 255))
            case "cut":
                del damaged[place:]
            case "drop":
                del damaged[place : place + source.draw(st.integers(1, 400))]
            case "insert":
                damaged[place:place] = source.draw(scraps).encode()
    same_as_lxml(bytes(damaged))
