"""MathML as readable text on one line: x̄ = (Σᵢ xᵢ)/n."""

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from lxml import etree

from data_prep.sources.script_characters import subscript, superscript, without_unseen

# Operators written with a space on both sides where they stand between two operands.
_SPACED = frozenset("=≠<>≤≥≪≫≈≃≅∼~≡∝→←↔⇒⇔↦⟶∈∉⊂⊆⊃⊇∪∩∧∨+-−±∓×÷·⋅∗*")
_SIGNS = frozenset("+-−±∓")  # these also stand before one operand, without space
_CONTINUING = _SPACED | frozenset(",;([{")
_OPENING = frozenset("([{⟨|‖")
_INVISIBLE = dict.fromkeys(
    [0x2061, 0x2062, 0x2063, 0x2064]
)  # function application, times, comma, plus
# What stands above or below a letter, as the combining character that follows the letter.
_ACCENTS_OVER = {
    "¯": "\u0304", "‾": "\u0304", "ˉ": "\u0304", "_": "\u0304", "―": "\u0304",
    "^": "\u0302", "ˆ": "\u0302", "~": "\u0303", "˜": "\u0303", "∼": "\u0303",
    "˙": "\u0307", ".": "\u0307", "¨": "\u0308", "→": "\u20d7", "⇀": "\u20d7", "ˇ": "\u030c",
}  # fmt: skip
_ACCENTS_UNDER = {"_": "\u0332", "¯": "\u0332", "‾": "\u0332", "ˍ": "\u0332", "―": "\u0332"}
_NOT_SHOWN = (
    "annotation", "annotation-xml", "mphantom", "none", "mprescripts", "malignmark", "maligngroup",
)  # fmt: skip
_LOOSE_BRACKET = re.compile(r"(?<=[(\[{])\s+|\s+(?=[)\]},;])")
_BRACKETS_DEEP = 20  # brackets nested deeper than any formula's are not looked into
_BRACKETED = re.compile(r"\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}")


_MAX_TAGS = 1000  # remembered: namespaces are the file's own, so their number has no bound


class _LocalNames(dict[Any, str]):
    """Tags without their namespace; "" for comments, processing instructions and entities."""

    def __missing__(self, tag: Any) -> str:
        name = tag.rpartition("}")[2] if isinstance(tag, str) else ""
        if len(self) < _MAX_TAGS:
            self[tag] = name
        return name


_LOCAL_NAMES = _LocalNames()


def local_name(element: etree._Element) -> str:
    """The tag without its namespace; "" for comments, processing instructions and entities."""
    return _LOCAL_NAMES[element.tag]


def mathml_text(math: etree._Element) -> str:
    """The formula as text, white space normalised: fractions a/b, scripts x², roots √x.

    Follows the presentation elements of MathML 3 (https://www.w3.org/TR/MathML3/chapter3.html); of
    `semantics` the presentation alone.
    """
    text = " ".join(_row(math).split())
    return _LOOSE_BRACKET.sub("", text)


def _nothing(element: etree._Element) -> str:
    return ""


def _no_element(node: etree._Element) -> str:
    """A comment, processing instruction or entity, which is no child in MathML's sense."""
    return ""


def _space(element: etree._Element) -> str:
    return " "


def _first(element: etree._Element) -> str:
    return next(iter(_texts(element)), "")


def _texts(element: etree._Element) -> list[str]:
    texts = []  # no comprehension: it would be a frame more at every level of nesting
    for child in element:
        build = _BUILDERS[child.tag]
        if build is not _no_element:
            texts.append(build(child))
    return texts


def _token(element: etree._Element) -> str:
    text = "".join(element.itertext(etree.Element)) if len(element) else element.text or ""
    return text if text.isascii() else _shown(text)


def _word(element: etree._Element) -> str:
    """An identifier or text, which stands apart from the words around it."""
    return _token(element)


def _sign(element: etree._Element) -> str:
    return _token(element)


@lru_cache(1024)
def _shown(text: str) -> str:
    return without_unseen(text).translate(_INVISIBLE)


def _row(element: etree._Element) -> str:
    """The children one after another, with space around operators and between words."""
    row = ""
    after_word = False
    for child in element:
        build = _BUILDERS[child.tag]
        text = build(child)
        if not text:
            continue
        if build is _sign:
            row += _operator(text.strip(), row)
            after_word = False
            continue
        # "sin x", "a b/c": run together they would read as something else.
        is_word = build is _fraction or (build is _word and _is_word(text))
        if row and (
            (after_word and text.lstrip()[:1].isalnum()) or (is_word and row[-1].isalnum())
        ):
            text = " " + text
        row += text
        after_word = is_word
    return row


def _is_word(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text.isalpha()


def _operator(sign: str, before: str) -> str:
    if sign in (",", ";"):
        return sign + " "
    left = before[-8:].rstrip()[-1:]
    is_between = bool(left) and left not in _OPENING and left not in _SPACED and left not in ",;"
    return f" {sign} " if sign in _SPACED and (is_between or sign not in _SIGNS) else sign


def _atom(text: str) -> str:
    """`text` in parentheses unless it reads as one thing without them."""
    text = text.strip()
    if " " not in text and "/" not in text:
        return text
    outside = text
    for _ in range(_BRACKETS_DEEP):
        outside, changes = _BRACKETED.subn("", outside)
        if not changes:
            break
    return f"({text})" if " " in outside or "/" in outside else text


def _child(texts: list[str], place: int) -> str:
    return texts[place].strip() if place < len(texts) else ""


def _fraction(element: etree._Element) -> str:
    texts = _texts(element)
    return f"{_atom(_child(texts, 0))}/{_atom(_child(texts, 1))}"


def _square_root(element: etree._Element) -> str:
    return "√" + _atom(_row(element))


def _root(element: etree._Element) -> str:
    texts = _texts(element)
    return superscript(_child(texts, 1)) + "√" + _atom(_child(texts, 0))


def _superscripted(element: etree._Element) -> str:
    texts = _texts(element)
    return _atom(_child(texts, 0)) + superscript(_child(texts, 1))


def _subscripted(element: etree._Element) -> str:
    texts = _texts(element)
    return _atom(_child(texts, 0)) + subscript(_child(texts, 1))


def _both_scripts(element: etree._Element) -> str:
    texts = _texts(element)
    return _atom(_child(texts, 0)) + subscript(_child(texts, 1)) + superscript(_child(texts, 2))


def _over(element: etree._Element) -> str:
    texts = _texts(element)
    base, sign = _child(texts, 0), _child(texts, 1)
    return _accented(base, sign, _ACCENTS_OVER) or _atom(base) + superscript(sign)


def _under(element: etree._Element) -> str:
    texts = _texts(element)
    base, sign = _child(texts, 0), _child(texts, 1)
    return _accented(base, sign, _ACCENTS_UNDER) or _atom(base) + subscript(sign)


def _accented(base: str, sign: str, accents: dict[str, str]) -> str | None:
    """A letter with its accent; None where these are not a letter and an accent."""
    if len(base) != 1 or len(sign) != 1:
        return None
    accent = sign if unicodedata.combining(sign) else accents.get(sign)
    return accent and base + accent


def _fenced(element: etree._Element) -> str:
    texts = _texts(element)
    separators = "".join(element.get("separators", ",").split())
    inner = _child(texts, 0)
    for place in range(1, len(texts)):
        # The last separator serves all further places, as MathML says.
        separator = separators[min(place, len(separators)) - 1] + " " if separators else ""
        inner += separator + _child(texts, place)
    return element.get("open", "(") + inner + element.get("close", ")")


def _table(element: etree._Element) -> str:
    """Rows of a matrix or system, apart by semicolons; one that goes on with an operator is no new one."""
    texts = _texts(element)
    table = ""
    for row in filter(None, (text.strip() for text in texts)):
        goes_on = table[-1:] in _CONTINUING or row[0] in _SPACED
        table += (" " if goes_on else "; ") + row if table else row
    return table


def _table_row(element: etree._Element) -> str:
    return _cells(_texts(element))


def _cells(texts: list[str]) -> str:
    return " ".join(cell for text in texts if (cell := text.strip()))


def _labelled_row(element: etree._Element) -> str:
    return _cells(_texts(element)[1:])  # the first cell is the equation's number


def _multiscripts(element: etree._Element) -> str:
    """Base, then (sub, super) pairs; after <mprescripts/> the pairs that stand before the base."""
    texts = _texts(element)
    names = [local_name(child) for child in element if local_name(child)]
    split = names.index("mprescripts") if "mprescripts" in names else len(names)
    return (
        _script_pairs(texts[split + 1 :]) + _atom(_child(texts, 0)) + _script_pairs(texts[1:split])
    )


def _script_pairs(texts: list[str]) -> str:
    return "".join(
        subscript(text.strip()) if place % 2 == 0 else superscript(text.strip())
        for place, text in enumerate(texts)
    )


class _Builders(dict[Any, Callable[[etree._Element], str]]):
    """What reads each tag, in any namespace; of what MathML does not know the children as a row."""

    def __missing__(self, tag: Any) -> Callable[[etree._Element], str]:
        name = _LOCAL_NAMES[tag]
        build = self.get(name, _row) if name else _no_element
        if len(self) < _MAX_TAGS:
            self[tag] = build
        return build


_BUILDERS = _Builders(
    {
        **dict.fromkeys(_NOT_SHOWN, _nothing),
        **dict.fromkeys(("mi", "mtext"), _word),
        **dict.fromkeys(("mn", "ms"), _token),
        "mo": _sign,
        **dict.fromkeys(("semantics", "maction"), _first),
        "mspace": _space,
        "mfrac": _fraction,
        "msqrt": _square_root,
        "mroot": _root,
        "msup": _superscripted,
        "msub": _subscripted,
        "msubsup": _both_scripts,
        "munderover": _both_scripts,
        "mmultiscripts": _multiscripts,
        "mover": _over,
        "munder": _under,
        "mfenced": _fenced,
        "mtable": _table,
        "mtr": _table_row,
        "mlabeledtr": _labelled_row,
    }
)
