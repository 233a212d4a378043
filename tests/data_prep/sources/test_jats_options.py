"""What the config chooses about JATS: citation markers, table bodies, acknowledgements, funding."""

import pytest

from data_prep.source_config import Jats
from tests.data_prep.sources.jats_articles import extract_one

REFERENCES = """<back><ref-list>
<ref id="r1"><element-citation><person-group><name><surname>Smith</surname></name><name><surname>Li</surname>
</name></person-group><article-title>Cells (and <italic>more</italic> cells).</article-title></element-citation></ref>
<ref id="r2"><citation-alternatives><mixed-citation>Li <article-title>Mice</article-title></mixed-citation>
<element-citation><collab>The Group</collab><article-title>Mice</article-title></element-citation>
</citation-alternatives></ref>
<ref id="r3"><mixed-citation>Nothing is marked up here.</mixed-citation></ref>
<ref id="r4"><element-citation><surname>Long</surname><article-title>one two three four five six seven
eight nine ten eleven twelve thirteen</article-title></element-citation></ref>
<ref><nlm-citation id="r5"><surname>Old</surname><source>A book</source></nlm-citation></ref>
</ref-list></back>"""


def body_of(tmp_path, content, **options):
    document = extract_one(tmp_path, content, options=Jats(**options), after=REFERENCES)
    return document["text"].partition("\n\n")[2]


def bibr(text, rid="r1"):
    return f"<xref ref-type='bibr' rid='{rid}'>{text}</xref>"


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (f"shown [{bibr(1)}].", "shown [1]."),
        (f"shown [{bibr(1)},{bibr(2)}–{bibr(4)}], and", "shown [1,2–4], and"),
        (f"shown ({bibr('Smith 2010')}; {bibr('Li 2011')}).", "shown (Smith 2010; Li 2011)."),
        (f"as {bibr('Smith et al.')} showed", "as Smith et al. showed"),
        (f"10<sup>5</sup> cells<sup>{bibr(7)}</sup> are", "10⁵ cells [7] are"),
        (f"cells<sup>{bibr(7)},{bibr(8)}</sup>.", "cells [7,8]."),
        (f"cells<sup>[{bibr(7)}]</sup>.", "cells [7]."),
        (f"cells{bibr('<sup>7</sup>')}<sup>,</sup>{bibr('<sup>9</sup>')}.", "cells [7,9]."),
        (f"cells{bibr('<sup>7</sup>')}<sup>–</sup>{bibr('<sup>9</sup>')}.", "cells [7–9]."),
        (f"Ca<sup>2+,{bibr(7)}</sup> ions", "Ca²⁺ [7] ions"),
    ],
)
def test_kept_citations_read_as_printed_and_never_as_numbers(tmp_path, content, kept):
    assert body_of(tmp_path, f"<p>{content}</p>", citations="keep") == kept


SMITH = "[bib_ref] Cells (and more cells), Smith [/bib_ref]"
GROUP = "[bib_ref] Mice, The Group [/bib_ref]"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"shown [{bibr(1)}].", f"shown {SMITH}."),
        (f"shown [{bibr(1)}, {bibr(2, 'r2')}] and", f"shown {SMITH} {GROUP} and"),
        (f"shown [{bibr('1, 2', 'r1 r2')}].", f"shown {SMITH} {GROUP}."),
        (f"shown<sup>{bibr(1)}</sup> and", f"shown {SMITH} and"),
        (f"shown<sup>{bibr(1)},{bibr(2, 'r2')}</sup>. So", f"shown {SMITH} {GROUP}. So"),
        (f"10<sup>5,{bibr(1)}</sup> cells", f"10⁵ {SMITH} cells"),
        (f"shown (see {bibr('Smith 2010')}).", f"shown {SMITH}."),
        (f"shown (but see {bibr('Smith 2010')} too).", f"shown (but see {SMITH} too)."),
        (f"as {bibr('Smith')} showed", f"as {SMITH} showed"),
        (f"shown [{bibr(3, 'r3')}].", "shown."),
        (f"shown [{bibr(9, 'nowhere')}, {bibr(1)}].", f"shown {SMITH}."),
        (f"[{bibr(1)}] first", f"{SMITH} first"),
        (
            bibr(4, "r4"),
            "[bib_ref] one two three four five six seven eight nine ten eleven twelve..., Long [/bib_ref]",
        ),
        (bibr(5, "r5"), "[bib_ref] A book, Old [/bib_ref]"),
    ],
)
def test_citations_become_tokens_as_meditron_wrote_them(tmp_path, content, expected):
    assert body_of(tmp_path, f"<p>{content}</p>", citations="tokens") == expected


FIGURES = """<fig id="f1"><label>Figure 1.</label><caption><title>Survival of mice: all groups.</title><p>More.</p>
</caption></fig><table-wrap id="t1"><label>Table 1</label><caption><p>Doses.</p></caption></table-wrap>
<fig id="f2"><label>Figure 2</label></fig>"""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "see (<xref ref-type='fig' rid='f1'>Fig. 1</xref>) and",
            "see ([fig_ref] Figure 1: Survival of mice [/fig_ref]) and",
        ),
        (
            "see <xref ref-type='table' rid='t1'>Table 1</xref>.",
            "see [fig_ref] Table 1: Doses [/fig_ref].",
        ),
        ("see <xref ref-type='fig' rid='f2'>Figure 2</xref>.", "see Figure 2."),
        ("see <xref ref-type='fig' rid='gone'>Figure 9</xref>.", "see Figure 9."),
    ],
)
def test_references_to_figures_and_tables_become_tokens(tmp_path, content, expected):
    text = body_of(tmp_path, f"<p>{content}</p>{FIGURES}", citations="tokens")
    assert text.partition("\n\n")[0] == expected


TABLE = """<table-wrap><label>Table 1.</label><caption><p>Counts</p></caption><table>
<tfoot><tr><td>Sum</td><td>3</td><td>7</td></tr></tfoot>
<thead><tr><th rowspan="2">Sex</th><th colspan="2">Group</th></tr><tr><th>A</th><th>B</th></tr></thead>
<tbody><tr><td>Men</td><td>1<xref ref-type="table-fn">a</xref></td><td>10<sup>5</sup></td></tr>
<tr><td/><td/><td/></tr>
<tr><td>Women<list><list-item><p>old</p></list-item></list></td><td>2</td><td><table><tr><td>x</td><td>y</td></tr></table></td></tr>
</tbody></table><table-wrap-foot><fn><label>a</label><p>About.</p></fn></table-wrap-foot></table-wrap>"""


def test_table_bodies_become_rows_with_the_header_first(tmp_path):
    assert body_of(tmp_path, TABLE) == "Table 1. Counts"
    assert body_of(tmp_path, TABLE, tables="rows").split("\n") == [
        "Table 1. Counts",
        "",
        "Sex | Group",
        " | A | B",
        "Men | 1ᵃ | 10⁵",
        "Women old | 2 | x y",
        "Sum | 3 | 7",
        "",
        "a About.",
    ]


def test_the_tables_of_oasis_are_read_too(tmp_path):
    table = """<table-wrap><label>Table 2</label><caption><p>Two</p></caption>
    <oasis:table xmlns:oasis="http://docs.oasis-open.org/ns/oasis-exchange/table"><oasis:tgroup cols="3">
    <oasis:colspec colname="c1"/><oasis:colspec colname="c2"/><oasis:colspec colname="c3"/>
    <oasis:thead><oasis:row><oasis:entry morerows="1">h</oasis:entry>
    <oasis:entry namest="c2" nameend="c3">both</oasis:entry></oasis:row>
    <oasis:row><oasis:entry>i</oasis:entry><oasis:entry>j</oasis:entry></oasis:row></oasis:thead>
    <oasis:tbody><oasis:row><oasis:entry>1</oasis:entry><oasis:entry>2</oasis:entry><oasis:entry>3</oasis:entry>
    </oasis:row></oasis:tbody></oasis:tgroup></oasis:table></table-wrap>"""
    assert body_of(tmp_path, table) == "Table 2. Two"
    assert (
        body_of(tmp_path, table, tables="rows") == "Table 2. Two\n\nh | both\n | i | j\n1 | 2 | 3"
    )


def test_absurd_spans_and_tables_of_pictures_do_no_harm(tmp_path):
    table = (
        "<table-wrap><table><tr><td colspan='99999999999'>a</td><td rowspan='99999'>b</td></tr>"
        "<tr><td colspan='-1'>c</td></tr><tr><td colspan='x'>d</td></tr><tr><td><graphic/></td></tr>"
        "</table></table-wrap>"
    )
    lines = body_of(tmp_path, table, tables="rows").split("\n")
    assert [line.strip(" |")[:1] for line in lines] == ["a", "c", "d"]
    assert max(map(len, lines)) < 400


BACK = """<back><ack><p>We thank Ann.</p></ack><fn-group><fn fn-type="financial-disclosure"><p>The NIH paid.</p></fn>
<fn fn-type="conflict"><p>None.</p></fn></fn-group></back>"""
FUNDING = "<funding-group><award-group><award-id>R01</award-id></award-group><funding-statement>By us.</funding-statement></funding-group>"


def test_acknowledgements_and_funding_are_there_only_where_asked_for(tmp_path):
    body = "<p>x</p><sec><title>Acknowledgments</title><p>Bob too.</p></sec><sec><title>Funding</title><p>And you.</p></sec>"
    texts = {}
    for acknowledgements in (False, True):
        for funding in (False, True):
            options = Jats(acknowledgements=acknowledgements, funding=funding)
            document = extract_one(tmp_path, body, options=options, meta=FUNDING, after=BACK)
            texts[acknowledgements, funding] = document["text"].split("\n\n")[1:]
    assert texts[False, False] == ["x"]
    assert texts[True, False] == ["x", "# Acknowledgments", "Bob too.", "# Acknowledgements", "We thank Ann."]  # fmt: skip
    assert texts[False, True] == ["x", "# Funding", "And you.", "# Funding", "By us.", "The NIH paid."]  # fmt: skip
    assert len(texts[True, True]) == 10
