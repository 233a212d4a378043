"""The running text of JATS articles: what becomes of each element."""

import pytest

from data_prep.sources.jats.citations import citation_mark, without_citations
from tests.data_prep.sources.jats_articles import read_one


def body_of(tmp_path, body):
    """The text that a body gives, without the title."""
    title, _, text = read_one(tmp_path, body)["text"].partition("\n\n")
    assert title == "A title"
    return text


def paragraph(tmp_path, content):
    return body_of(tmp_path, f"<p>{content}</p>")


def test_headings_show_their_depth_and_empty_sections_vanish(tmp_path):
    document = read_one(
        tmp_path,
        """<sec><title>Methods</title><sec><title>Mice <xref ref-type="bibr">3</xref></title><p>A.</p>
          <sec><title>Old</title><p>B.</p></sec></sec></sec>
        <sec><title>Files</title><supplementary-material><p>S1</p></supplementary-material></sec>
        <sec><label>4.</label><title>Results</title><p>C.</p></sec>
        <sec><p>D.</p></sec>""",
    )
    assert document["text"].split("\n\n")[1:] == [
        "# Methods",
        "## Mice",
        "A.",
        "### Old",
        "B.",
        "# 4. Results",
        "C.",
        "D.",
    ]
    assert document["metadata"]["sections"] == ["Methods", "Mice", "Old", "Results"]


def test_a_body_without_sections_and_an_article_without_body_work(tmp_path):
    assert body_of(tmp_path, "<p>One.</p><p>Two.</p>") == "One.\n\nTwo."
    document = read_one(tmp_path, meta="<abstract><p>Only this.</p></abstract>")
    assert document["text"] == "A title\n\nOnly this."


def test_scanned_text_keeps_its_lines(tmp_path):
    scan = '<preformat preformat-type="pmc-ocr-text">First   line\nsecond line\n\n\n\nthird</preformat>'
    assert body_of(tmp_path, scan) == "First line\nsecond line\n\nthird"


@pytest.mark.parametrize(
    ("abstracts", "expected"),
    [
        (
            '<abstract abstract-type="graphical"><p>Picture.</p></abstract>'
            '<abstract abstract-type="teaser"><p>Come!</p></abstract>'
            "<abstract><title>Abstract</title><p>Real.</p></abstract>"
            '<trans-abstract xml:lang="fr"><p>Vrai.</p></trans-abstract>',
            "Real.",
        ),
        (
            '<abstract xml:lang="fr"><p>Vrai.</p></abstract><abstract xml:lang="en"><p>Real.</p></abstract>',
            "Real.",
        ),
        (
            "<abstract><sec><title>Aim</title><p>To see.</p></sec>"
            "<sec><title>Methods:</title><p>Looking.</p><p>Again.</p></sec></abstract>",
            "Aim: To see.\nMethods: Looking. Again.",
        ),
    ],
)
def test_the_abstract_is_the_first_ordinary_one(tmp_path, abstracts, expected):
    document = read_one(tmp_path, "<p>Body.</p>", meta=abstracts)
    assert document["text"] == f"A title\n\n{expected}\n\nBody."


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            "<p>Before<list><list-item><p>one</p></list-item><list-item><p>two</p><p>more</p>"
            "</list-item></list>after.</p>",
            "Before\n\n- one\n- two more\n\nafter.",
        ),
        (
            "<list><list-item><label>1.</label><p>a<list><list-item><p>b</p></list-item></list></p>"
            "</list-item><list-item><p>c</p></list-item></list>",
            "- 1. a\n  - b\n- c",
        ),
        (
            "<def-list><def-item><term>RNA</term><def><p>ribonucleic acid</p></def></def-item>"
            "<def-item><term>DNA</term><def><p>the other</p></def></def-item></def-list>",
            "- RNA: ribonucleic acid\n- DNA: the other",
        ),
        (
            "<p>x</p><boxed-text><label>Box 1</label><caption><title>Summary</title></caption>"
            "<p>In short.</p><sec><title>Part</title><p>p</p></sec></boxed-text><p>y</p>",
            "x\n\nBox 1. Summary\n\nIn short.\n\n# Part\n\np\n\ny",
        ),
        (
            "<boxed-text><title>Key points</title><list><list-item><p>k</p></list-item></list></boxed-text>",
            "Key points\n\n- k",
        ),
        (
            "<p>See <fig><label>Figure 1</label><caption><title>Mice</title><p>Grey.</p><p>Old.</p></caption>"
            "<graphic xlink:href='g'><alt-text>alt</alt-text></graphic></fig> here.</p>",
            "See\n\nFigure 1. Mice. Grey. Old.\n\nhere.",
        ),
        (
            "<table-wrap><label>Table 1.</label><caption><p>Counts</p></caption><alternatives><graphic/>"
            "<table><tr><td>7 <xref ref-type='table-fn'>a</xref></td></tr></table></alternatives>"
            "<table-wrap-foot><fn><p>Foot</p></fn></table-wrap-foot></table-wrap>",
            "Table 1. Counts",
        ),
        (
            "<fig-group><caption><p>Both</p></caption><fig><label>A</label><caption><p>one</p></caption></fig>"
            "<fig><label>B</label><caption><p>two</p></caption></fig></fig-group>",
            "Both\n\nA. one\n\nB. two",
        ),
        ("<fig><label>Fig 3</label><p>Old.</p><p>Mice.</p></fig>", "Fig 3. Old. Mice."),
        ("<p>a<disp-quote><p>quoted</p></disp-quote>b</p>", "a\n\nquoted\n\nb"),
        (
            "<p>Thus <disp-formula><label>(1)</label><tex-math>E=mc^2</tex-math></disp-formula>.</p><p>So</p>",
            "Thus\n\n$E=mc^2$ (1)\n\nSo",
        ),
        (
            "<p>Thus <disp-formula><mml:math><mml:mi>x</mml:mi></mml:math><tex-math>x</tex-math></disp-formula>.</p>",
            "Thus\n\n$x$",
        ),
        (
            "<fig><label>Fig 2</label><caption><p>Both <disp-formula><mml:math><mml:mi>x</mml:mi></mml:math>"
            "<tex-math>x</tex-math></disp-formula></p></caption></fig>",
            "Fig 2. Both $x$",
        ),
        (
            "<p>Thus <disp-formula><mml:math><mml:mi>x</mml:mi></mml:math></disp-formula>.</p>",
            "Thus\n\nx.",
        ),
        ("<p>line<break/>two</p>", "line two"),
        ("<p>word<fn><label>1</label><p>A note.</p></fn>, on</p>", "word (A note.), on"),
        ("<verse-group><verse-line>a</verse-line><verse-line>b</verse-line></verse-group>", "a\n\nb"),
        ("<p>a<?pi x?><!-- c -->b</p>", "ab"),
        ("<speech><speaker>Q</speaker><p>Why?</p></speech>", "Q\n\nWhy?"),
    ],
)  # fmt: skip
def test_blocks_break_lines_and_keep_their_order(tmp_path, body, expected):
    assert body_of(tmp_path, body) == expected


@pytest.mark.parametrize(
    "dropped",
    [
        "<sec><title>Acknowledgements</title><p>Thanks.</p></sec>",
        "<sec><title>Funding</title><p>Money.</p></sec>",
        "<sec sec-type='supplementary-material'><title>Supporting information</title><p>S1.</p></sec>",
        "<ref-list><ref><mixed-citation>Smith 2010</mixed-citation></ref></ref-list>",
        "<supplementary-material><caption><p>Data S1</p></caption></supplementary-material>",
        "<table-wrap><table><tr><td>1</td></tr></table></table-wrap>",
        "<p><inline-graphic xlink:href='x'/></p>",
    ],
)
def test_what_is_no_running_text_is_dropped(tmp_path, dropped):
    assert body_of(tmp_path, f"<p>Stays.</p>{dropped}") == "Stays."


def test_front_and_back_matter_is_dropped_and_floating_captions_come_last(tmp_path):
    document = read_one(
        tmp_path,
        "<p>Body.</p>",
        title="A title <xref ref-type='fn'>*</xref><fn><p>Presented.</p></fn>",
        meta="<contrib-group><contrib><name><surname>Smith</surname></name></contrib></contrib-group>"
        "<aff>Town</aff><permissions><copyright-statement>(c)</copyright-statement></permissions>"
        "<funding-group><funding-statement>Paid.</funding-statement></funding-group>",
        after="""<back><ack><p>Thanks.</p></ack><ref-list><ref><mixed-citation>R</mixed-citation></ref>
        </ref-list></back><floats-group><fig><label>Fig 1</label><caption><p>Late.</p></caption></fig>
        </floats-group><sub-article><front-stub><title-group><article-title>Review</article-title>
        </title-group></front-stub><body><p>Reviewer 1.</p></body></sub-article>
        <response><body><p>Reply.</p></body></response>""",
    )
    assert document["text"] == "A title\n\nBody.\n\nFig 1. Late."


def bibr(text, content="x"):
    return f"<xref ref-type='bibr' rid='{content}'>{text}</xref>"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"shown [{bibr(1)}].", "shown."),
        (f"shown [{bibr(1)},{bibr(2)}–{bibr(4)}], and", "shown, and"),
        (f"shown [{bibr(1)}]–[{bibr(4)}] and", "shown and"),
        (f"shown {bibr('[1]')}, {bibr('[2]')}.", "shown."),
        (f"shown<sup>{bibr(1)},{bibr(2)}</sup>.", "shown."),
        (f"shown<sup>[{bibr(1)}]</sup> and", "shown and"),
        (f"shown<sup>{bibr(1)}</sup>and", "shown and"),
        (f"shown {bibr('<sup>1</sup>')}<sup>,</sup>{bibr('<sup>2</sup>')} so", "shown so"),
        (f"10<sup>5</sup> cells<sup>{bibr(7)}</sup>", "10⁵ cells"),
        (f"Ca<sup>2+,{bibr(7)}</sup>", "Ca²⁺"),
        (f"shown ({bibr('Smith 2010')}; {bibr('Li <i>et al.</i>, 2011')}).", "shown."),
        (f"shown (see {bibr('Smith 2010')}).", "shown."),
        (f"shown (reviewed in [{bibr(3)}, {bibr(4)}]).", "shown."),
        (f"shown (Fig. 1; {bibr('Smith 2010')}).", "shown (Fig. 1)."),
        (f"shown ({bibr('Smith 2010')}, but see below).", "shown (but see below)."),
        (f"as {bibr('Smith et al. (2010)')} showed", "as Smith et al. (2010) showed"),
        (f"as {bibr('Smith')} ({bibr('2010')}) showed", "as Smith showed"),
        (f"a, {bibr(1)}, b", "a, b"),
        (f"a, {bibr(1)}.", "a."),
        (f"(n = 5 [{bibr(1)}])", "(n = 5)"),
        (f"(50% [{bibr(1)}])", "(50%)"),
        (f"in [{bibr(1)}, 7].", "in."),
        ("see <xref ref-type='fig'>Figure 2</xref> and <xref ref-type='table'>Table 1</xref>",
         "see Figure 2 and Table 1"),
        ("x<sup><xref ref-type='fn'>a</xref></sup>", "xᵃ"),
        ("an empty () pair [] stays", "an empty () pair [] stays"),
    ],
)  # fmt: skip
def test_citation_markers_leave_no_trace(tmp_path, content, expected):
    assert paragraph(tmp_path, content) == expected


def test_no_arrangement_of_citations_leaves_brackets_or_digits():
    mark = citation_mark("12")
    for opening, closing in (("[", "]"), ("(", ")"), ("", "")):
        for separator in (",", ", ", "–", "-", "; ", " and ", ",–"):
            for number in (1, 2, 3):
                group = opening + separator.join([mark] * number) + closing
                for before, after in (("word ", " word"), ("word", "."), ("word. ", " Word")):
                    text = without_citations(before + group + after)
                    assert text == before.rstrip() + after, (before, group, after)


PREAMBLE = (
    r"\documentclass[12pt]{minimal} \usepackage{amsmath} \begin{document}$$\alpha$$\end{document}"
)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            f"<inline-formula><alternatives><tex-math>{PREAMBLE}</tex-math><mml:math><mml:mi>α</mml:mi>"
            "</mml:math><inline-graphic/></alternatives></inline-formula>",
            r"a $\alpha$ b",
        ),
        (
            "<inline-formula><inline-graphic/><mml:math><mml:msup><mml:mi>x</mml:mi><mml:mn>2</mml:mn>"
            "</mml:msup></mml:math></inline-formula>",
            "a x² b",
        ),
        (
            "<alternatives><mml:math><mml:mi>y</mml:mi></mml:math><textual-form>why</textual-form></alternatives>",
            "a y b",
        ),
        ("<alternatives><textual-form>why</textual-form><graphic/></alternatives>", "a why b"),
        ("<inline-formula>p &lt; <italic>0.05</italic></inline-formula>", "a p < 0.05 b"),
        ("(<inline-formula><inline-graphic/></inline-formula>)", "a b"),
    ],
)
def test_a_formula_appears_once_and_without_its_preamble(tmp_path, content, expected):
    assert paragraph(tmp_path, f"a {content} b") == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("10<sup>5</sup> cells, 10<sup>-3</sup> M", "10⁵ cells, 10⁻³ M"),
        ("1.73 m<sup>2</sup>, 10<italic><sup>n</sup></italic>", "1.73 m², 10ⁿ"),
        ("<sup>14</sup>C and H<sub>2</sub>O", "¹⁴C and H₂O"),
        ("4002.e26", "4002.e26"),
        ("P&lt;0.001 and x > 3", "P<0.001 and x > 3"),
        ("co­ope​ration", "cooperation"),
        ("P &amp;lt; 0.05, A&amp;amp;B, A&amp;amp;amp;B", "P < 0.05, A&B, A&B"),
        ("5 g and  a point", "5 �g and � a point"),
        ("a<private-char><glyph-data>0001110</glyph-data></private-char>b", "ab"),
        ("a<private-char name='x'><inline-graphic/></private-char>b", "ab"),
        ("a b c\n  d", "a b c d"),
        ("a<inline-formula><tex-math>x</tex-math></inline-formula>b", "a$x$b"),
    ],
)  # fmt: skip
def test_signs_and_numbers_mean_what_they_meant(tmp_path, content, expected):
    assert paragraph(tmp_path, content) == expected


def test_footnotes_stand_where_the_text_refers_to_them_first(tmp_path):
    document = read_one(
        tmp_path,
        "<p>One<xref ref-type='fn' rid='n1'>1</xref> and two<sup><xref ref-type='fn' rid='n2'>2</xref></sup>, "
        "again<sup><xref ref-type='fn' rid='n1'>1</xref></sup>; x<sup>2,<xref ref-type='fn' rid='n3'>3</xref></sup>.</p>",
        after="""<back><fn-group><fn id="n1"><label>1</label><p>First <bold>note</bold>.</p></fn>
        <fn id="n2"><p>A<sup>2</sup> [see <xref ref-type="bibr">3</xref>].</p></fn>
        <fn id="n3"><p>Third, see <xref ref-type="fn" rid="n1">1</xref>.</p></fn>
        <fn><p>Nobody refers to this one.</p></fn></fn-group></back>""",
    )
    assert (
        document["text"].partition("\n\n")[2]
        == "One (First note.) and two (A².), again¹; x² (Third, see 1.)."
    )


def test_appendices_and_abbreviations_of_the_back_matter_stay(tmp_path):
    document = read_one(
        tmp_path,
        "<sec><title>End</title><p>Body.</p></sec>",
        after="""<back><ack><p>Thanks.</p></ack><app-group><app><title>Appendix 1</title><p>Proof.</p>
        <sec><title>Part</title><p>More.</p></sec></app></app-group>
        <glossary><title>Abbreviations</title><def-list><def-item><term>AC</term><def><p>anchor cell</p></def>
        </def-item></def-list></glossary><bio><p>She lives.</p></bio></back>""",
    )
    assert document["text"].split("\n\n")[1:] == [
        "# End", "Body.", "# Appendix 1", "Proof.", "## Part", "More.", "# Abbreviations", "- AC: anchor cell",
    ]  # fmt: skip
    assert document["metadata"]["sections"] == ["End", "Appendix 1", "Part", "Abbreviations"]


def test_of_alternative_blocks_the_first_readable_one_is_taken(tmp_path):
    body = """<block-alternatives><graphic/><boxed-text><p>As text.</p></boxed-text>
    <fig><caption><p>As a picture.</p></caption></fig></block-alternatives>"""
    assert body_of(tmp_path, body) == "As text."
