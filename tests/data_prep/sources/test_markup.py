"""The text extractor against Unicode's own tables, lxml's itertext and hand-set formulas."""

import random
import unicodedata

import pytest
from lxml import etree

from data_prep.sources import script_characters
from data_prep.sources.markup import inline_text, normalised
from data_prep.sources.mathml import mathml_text
from data_prep.sources.tex_math import tex_math

MATHML = "http://www.w3.org/1998/Math/MathML"


def text_of(content):
    return inline_text(etree.fromstring(f"<t xmlns:mml='{MATHML}'>{content}</t>"))


def formula(content):
    return mathml_text(etree.fromstring(f"<math xmlns='{MATHML}'>{content}</math>"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("10<sup>5</sup> cells", "10⁵ cells"),
        ("10<sup>-5</sup>, 10<sup>−5</sup>, 10<sup>–5</sup>", "10⁻⁵, 10⁻⁵, 10⁻⁵"),
        ("1.73 m<sup>2</sup>", "1.73 m²"),
        ("H<sub>2</sub>O and CO<sub>2</sub>", "H₂O and CO₂"),
        ("<sup>14</sup>C, Ca<sup>2+</sup>", "¹⁴C, Ca²⁺"),
        ("K<sub>i,j</sub>", "K_{i,j}"),
        ("x<sup>2,3</sup>", "x^{2,3}"),
        ("e<sup>−αt</sup>", "e^{−αt}"),
        ("V<sub>max</sub>", "Vₘₐₓ"),
        ("37<sup>°</sup>C", "37°C"),
        ("m<sup>2 </sup>and m<sup> 2</sup>", "m² and m ²"),
        ("x<sub>i<sup>2</sup></sub>", "x_{i²}"),
        ("a<sup/>b<sup> </sup>c", "ab c"),
        ("10<sup><i>n</i></sup>", "10ⁿ"),
        ("<b>Bold</b>, <i>it<u>al</u>ic</i> tail", "Bold, italic tail"),
        ("a<!-- no -->b<?pi no?>c", "abc"),
        ("<![CDATA[5 < 6 & 7]]>", "5 < 6 & 7"),
        ("P &lt; 0.05 &amp; more", "P < 0.05 & more"),
        ("P &amp;lt; 0.05, A&amp;amp;B", "P < 0.05, A&B"),
        ("AT&amp;T; R&amp;D", "AT&T; R&D"),
        ("co\u00adope\u200bration\ufeff", "cooperation"),
        (" \n a\u00a0b\u2009c\t\n", "a b c"),
        ("", ""),
        ("x <mml:math><mml:mi>y</mml:mi></mml:math> z", "x y z"),
    ],
)
def test_inline_markup_reads_as_the_printed_page_does(content, expected):
    assert text_of(content) == expected


def test_undeclared_entities_become_the_characters_that_html_names():
    parser = etree.XMLParser(resolve_entities=False, load_dtd=False, no_network=True)
    document = b'<!DOCTYPE t PUBLIC "-//x" "x.dtd"><t>TGF-&beta;1 &unheardof; b</t>'
    assert inline_text(etree.fromstring(document, parser)) == "TGF-β1 &unheardof; b"


@pytest.mark.parametrize(
    ("make", "kind"),
    [(script_characters.superscript, "<super>"), (script_characters.subscript, "<sub>")],
)
def test_every_raised_and_lowered_character_is_one_in_unicodes_database(make, kind):
    found = 0
    for code in range(0x20, 0x2300):
        character, script = chr(code), make(chr(code))
        if script.startswith(("^{", "_{")) or character.isspace() or not script:
            continue
        found += 1
        decomposition = unicodedata.decomposition(script)
        is_minus = character in "-‐‑–−" and unicodedata.normalize("NFKC", script) == "−"
        is_raised_by_nature = character in "°′″‴™®∘"
        assert is_minus or is_raised_by_nature or decomposition == f"{kind} {code:04X}", character
    assert found > 40


def test_of_tags_without_meaning_every_character_stays_in_order():
    rng = random.Random(7)
    words = ["alpha", "β-", "(5%)", "\u00a0", " ", "\n", "x,y;", "é", "<", "&"]

    def grow(element, depth):
        element.text = rng.choice(words)
        for _ in range(rng.randrange(4) if depth else 0):
            child = etree.SubElement(element, rng.choice(["i", "b", "u", "named-content"]))
            grow(child, depth - 1)
            child.tail = rng.choice(words)

    for _ in range(300):
        tree = etree.Element("t")
        grow(tree, 4)
        assert inline_text(tree) == " ".join("".join(tree.itertext()).split())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<mi>a</mi><mo>=</mo><mi>b</mi><mo>+</mo><mn>2</mn>", "a = b + 2"),
        ("<mo>-</mo><mi>x</mi>", "-x"),
        ("<msup><mi>x</mi><mn>2</mn></msup>", "x²"),
        ("<msub><mi>x</mi><mrow><mi>i</mi><mo>,</mo><mi>j</mi></mrow></msub>", "x_{i, j}"),
        ("<msubsup><mi>x</mi><mi>i</mi><mn>2</mn></msubsup>", "xᵢ²"),
        ("<mfrac><mi>a</mi><mi>b</mi></mfrac>", "a/b"),
        (
            "<mfrac><mrow><mi>a</mi><mo>+</mo><mn>1</mn></mrow><mi>b</mi></mfrac><mi>c</mi>",
            "(a + 1)/b c",
        ),
        ("<msqrt><mi>x</mi><mo>+</mo><mi>y</mi></msqrt>", "√(x + y)"),
        ("<mroot><mi>x</mi><mn>3</mn></mroot>", "³√x"),
        ("<mover><mi>x</mi><mo>¯</mo></mover>", "x̄"),
        ("<mover accent='true'><mi>y</mi><mo>^</mo></mover>", "ŷ"),
        (
            "<munderover><mo>∑</mo><mrow><mi>i</mi><mo>=</mo><mn>1</mn></mrow><mi>n</mi></munderover>"
            "<msub><mi>x</mi><mi>i</mi></msub>",
            "∑ᵢ₌₁ⁿxᵢ",
        ),
        ("<mi>sin</mi><mo>\u2061</mo><mi>x</mi>", "sin x"),
        ("<mn>2</mn><mo>\u2062</mo><mi>x</mi>", "2x"),
        ("<mfenced open='['><mi>a</mi><mi>b</mi></mfenced>", "[a, b)"),
        ("<mfenced separators=';'><mi>a</mi><mi>b</mi><mi>c</mi></mfenced>", "(a; b; c)"),
        (
            "<mtable><mtr><mtd><mi>a</mi></mtd><mtd><mi>b</mi></mtd></mtr>"
            "<mtr><mtd><mi>c</mi></mtd><mtd><mi>d</mi></mtd></mtr></mtable>",
            "a b; c d",
        ),
        (
            "<semantics><mi>x</mi><annotation encoding='application/x-tex'>\\x</annotation></semantics>",
            "x",
        ),
        (
            "<mmultiscripts><mi>C</mi><mprescripts/><none/><mn>14</mn></mmultiscripts>",
            "¹⁴C",
        ),
        ("<mi>x</mi><mphantom><mi>y</mi></mphantom>", "x"),
        ("<mtext>if </mtext><mi>x</mi><mo>&gt;</mo><mn>0</mn>", "if x > 0"),
    ],
)
def test_mathml_reads_as_a_line_of_text(content, expected):
    assert formula(content) == unicodedata.normalize("NFC", expected) or formula(
        content
    ) == unicodedata.normalize("NFD", expected)


@pytest.mark.parametrize(
    ("tex", "expected"),
    [
        (
            r"\documentclass[12pt]{minimal} \usepackage{amsmath} \setlength{\oddsidemargin}{-69pt}"
            r" \begin{document}$$\alpha = 5$$\end{document}",
            r"$\alpha = 5$",
        ),
        (r"\begin{document}\(x\)\end{document}", "$x$"),
        (r"x_1", "$x_1$"),
        (r"$x_1$", "$x_1$"),
        (r"\documentclass{minimal}\usepackage{amsmath} x^2", "$x^2$"),
        ("", ""),
    ],
)
def test_tex_loses_its_preamble_and_nothing_else(tex, expected):
    assert tex_math(tex) == expected


def test_normalising_twice_changes_nothing():
    for text in ("a  b", "&amp;lt;", "x\u00ad \u200b y", " "):
        assert normalised(normalised(text)) == normalised(text)
