"""Articles that hypothesis makes up: no text lost or moved, no crash, no hang."""

import re
from collections import Counter
from xml.sax.saxutils import escape, quoteattr

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from data_prep.documents import Reject
from data_prep.source_config import Jats
from data_prep.sources.jats import tags as jats_tags
from data_prep.sources.jats.inline import InlineState
from data_prep.sources.jats.reader import Article, article_document
from data_prep.sources.jats.text import RunningText
from tests.data_prep.sources.jats_articles import article

# Tags that leave their text as it is, in the line or as blocks of their own.
INLINE = (
    "italic",
    "bold",
    "sc",
    "underline",
    "named-content",
    "ext-link",
    "monospace",
    "styled-content",
)
BLOCKS = ("p", "sec", "disp-quote", "statement", "verse-group", "attrib", "list-content", "app", "glossary")  # fmt: skip
WORDS = st.text("abcxyz059 .,;()[]–-α€\n\u00a0", max_size=12)
# No full stop or bracket alone in a block: where a formula or figure stood before it, it is joined.
SENTENCES = WORDS.map(lambda text: f"w{text}")


def element(tag, children):
    return f"<{tag}>{children}</{tag}>"


LINES = st.recursive(
    SENTENCES.map(escape),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map("".join),
        st.builds(element, st.sampled_from(INLINE), inner),
    ),
    max_leaves=8,
)
BODIES = st.recursive(
    st.builds(element, st.just("p"), LINES),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map("".join),
        st.builds(element, st.sampled_from(BLOCKS), inner),
        st.builds(lambda line, block: f"<p>{line}{block}{line}</p>", LINES, inner),
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(BODIES)
def test_of_kept_elements_every_character_stays_in_order(body):
    root = etree.fromstring(f"<body>{body}</body>")
    running = RunningText(Jats())
    running.add(root)
    assert "".join(str(running).split()) == "".join("".join(root.itertext()).split())
    assert not running.unknown


@settings(max_examples=100, deadline=None)
@given(LINES)
def test_a_line_is_its_text_with_white_space_normalised(line):
    root = etree.fromstring(f"<p>{line}</p>")
    assert InlineState(Jats()).line(root) == " ".join("".join(root.itertext()).split())


ANY_TAG = st.sampled_from(sorted(jats_tags.KNOWN | {"xref", "novelty", "mml:mrow", "mml:msup", "mml:mi",
                                                    "mml:mo", "mml:mtable", "mml:mtr", "mml:mfenced"}))  # fmt: skip
ATTRIBUTES = st.dictionaries(
    st.sampled_from(["id", "rid", "ref-type", "fn-type", "colspan", "rowspan", "sec-type", "preformat-type",
                     "article-type", "separators", "namest", "nameend", "morerows"]),
    st.sampled_from(["bibr", "fn", "fig", "table-fn", "a", "b", "a b", "2", "-1", "99999999999", "", "²",
                     "pmc-ocr-text", "supplementary-material"]),
    max_size=3,
)  # fmt: skip
ANY_TEXT = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\ufffe\uffff"), max_size=8
) | st.sampled_from(["[", "]", "(", ")", ", ", "–", " and ", "1", r"\usepackage{x}", "&amp;", "see "])  # fmt: skip


def any_element(tag, attributes, children):
    written = "".join(f" {name}={quoteattr(value)}" for name, value in attributes.items())
    return f"<{tag}{written}>{children}</{tag}>"


ANYTHING = st.recursive(
    ANY_TEXT.map(escape),
    lambda inner: st.builds(
        any_element, ANY_TAG, ATTRIBUTES, st.lists(inner, max_size=4).map("".join)
    ),
    max_leaves=25,
)
OPTIONS = st.builds(
    Jats,
    citations=st.sampled_from(["drop", "keep", "tokens"]),
    tables=st.sampled_from(["captions", "rows"]),
    acknowledgements=st.booleans(),
    funding=st.booleans(),
)


def check(xml: bytes, options: Jats, about=None) -> None:
    """Read whatever this is; only a reject or a sound document may come of it."""
    tally: Counter[str] = Counter()
    record = article_document(xml, "a.xml", options, 10**6, about, tally)
    if isinstance(record, Reject):
        assert record.reason
        return
    assert isinstance(record, Article)
    text = record.document["text"]
    assert text
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", text)
    text.encode()
    assert 0 <= record.kept_characters <= len(text)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ANYTHING, ANYTHING, ANYTHING, OPTIONS)
def test_any_tags_in_any_order_give_a_sound_document(body, meta, after, options):
    xml = article(body, meta=meta, after=f"<back>{after}</back><floats-group>{meta}</floats-group>")
    check(xml.encode(), options)


SEED = article(
    "<sec id='s'><title>T <xref ref-type='bibr' rid='r'>1</xref></title><p>a [<xref ref-type='bibr' rid='r'>1"
    "</xref>] 10<sup>5</sup> <xref ref-type='fn' rid='n'>*</xref></p><table-wrap id='t'><label>1</label><caption>"
    "<p>c</p></caption><table><tr><td colspan='2'>x</td></tr></table></table-wrap></sec>",
    meta="<abstract><p>Abs.</p></abstract><permissions><license><p>CC BY 4.0</p></license></permissions>"
    "<related-article related-article-type='corrected-article' ext-link-type='pubmed' xlink:href='1'/>",
    after="<back><fn-group><fn id='n'><p>Note</p></fn></fn-group><ref-list><ref id='r'><element-citation>"
    "<surname>S</surname><article-title>T</article-title></element-citation></ref></ref-list></back>",
).encode()
EDITS = st.lists(
    st.tuples(
        st.integers(0, len(SEED)),
        st.integers(0, 20),
        st.binary(max_size=6)
        | st.sampled_from([b"<", b">", b"</p>", b"<sec>", b"&", b"&lt;", b"]]>", b"<![CDATA[", b"<!--", b"\0", b'"']),
    ),
    min_size=1,
    max_size=4,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(EDITS, OPTIONS)
def test_edited_bytes_give_a_document_or_a_reason(edits, options):
    xml = SEED
    for place, length, inserted in edits:
        xml = xml[:place] + inserted + xml[place + length :]
    check(xml, options)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["pmcid", "version", "pmid", "doi", "license_code", "is_retracted", "is_manuscript",
                         "is_historical_ocr"]),
        st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.lists(st.integers(), max_size=2),
    )
)  # fmt: skip
def test_whatever_the_list_says_does_no_harm(about):
    check(SEED, Jats(), about)
