"""The one place where inline XML markup becomes text; both the PubMed and the JATS reader use it.

Texts and tails are walked in document order, so nothing between two tags is lost or moved.
"""

import html
import re
from collections.abc import Callable

from lxml import etree

from data_prep.sources.mathml import local_name, mathml_text
from data_prep.sources.script_characters import subscript, superscript, without_unseen

Special = Callable[[etree._Element, list[str]], bool]
"""Looks at a child first: True if it has put the child's text into the list itself."""

# Escaped once too often in the source ("P &amp;lt; 0.05"): only the forms that no prose contains.
_ESCAPED_AGAIN = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{2,6}|#[xX][0-9a-fA-F]{2,5});")


def normalised(text: str) -> str:
    """Runs of white space as one space, none at the ends; soft hyphens and zero-width spaces dropped."""
    text = without_unseen(text)
    while "&" in text and _ESCAPED_AGAIN.search(text):
        text = _ESCAPED_AGAIN.sub(lambda match: html.unescape(match[0]), text)
    return " ".join(text.split())


def inline_text(element: etree._Element | None, special: Special | None = None) -> str:
    """The element's text, white space normalised; "" where there is no element.

    <sup> and <sub> become Unicode characters, or ^{…} and _{…} where there are none, so that
    10<sup>5</sup> never reads 105; MathML becomes readable text; comments and processing instructions
    vanish, other tags leave their content.
    """
    if element is None:
        return ""
    if not len(element):
        return normalised(element.text or "")
    pieces: list[str] = []
    append_text(element, pieces, special)
    return normalised("".join(pieces))


def append_text(element: etree._Element, pieces: list[str], special: Special | None = None) -> None:
    """Append the texts of the element's content to `pieces`, white space as it is."""
    if element.text:
        pieces.append(element.text)
    for child in element:
        _append_child(child, pieces, special)
        if child.tail:
            pieces.append(child.tail)


def _append_child(child: etree._Element, pieces: list[str], special: Special | None) -> None:
    if child.tag is etree.Entity:
        # Declared in a DTD that is not read: HTML's names (&alpha;) are those that publishers use.
        pieces.append(html.unescape(child.text or ""))
        return
    name = local_name(child)
    if not name or (special is not None and special(child, pieces)):
        return
    if name == "math":
        pieces.append(mathml_text(child))
    elif name in ("sup", "sub"):
        inner: list[str] = []
        append_text(child, inner, special)
        pieces.append((superscript if name == "sup" else subscript)("".join(inner)))
    else:
        append_text(child, pieces, special)
