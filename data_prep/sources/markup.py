"""The one place where inline XML markup becomes text; both the PubMed and the JATS reader use it.

Texts and tails are walked in document order, so nothing between two tags is lost or moved.
"""

import html
import re
from collections.abc import Callable, Mapping
from typing import Any

from lxml import etree

from data_prep.sources.mathml import mathml_text
from data_prep.sources.script_characters import subscript, superscript, without_unseen

Handler = Callable[[Any, etree._Element, list[str]], None]
"""Puts a child's text into the list itself; first comes the state that the walk was given."""

_MAX_TAGS = 1000  # remembered: namespaces are the file's own, so their number has no bound
# Escaped once too often in the source ("P &amp;lt; 0.05"): only the forms that no prose contains.
_ESCAPED_AGAIN = re.compile(
    r"&(?:amp;)*((?:amp|lt|gt|quot|apos|nbsp|#\d{2,6}|#[xX][0-9a-fA-F]{2,5});)"
)


class Markup(dict[Any, Handler | None]):
    """What becomes of each tag: a handler, or None where its content stays in the line.

    A tag in a namespace is what its local name is; comments and processing instructions vanish; `unknown`
    takes every other tag.
    """

    def __init__(self, handlers: Mapping[str, Handler | None], unknown: Handler | None = None):
        super().__init__(handlers)
        self._unknown = unknown

    def __missing__(self, tag: Any) -> Handler | None:
        if isinstance(tag, str):
            name = tag.rpartition("}")[2]
            if name == tag or name not in self:
                return self._unknown
            handler = self[name]
        else:
            handler = _entity if tag is etree.Entity else _nothing
        if len(self) < _MAX_TAGS:
            self[tag] = handler
        return handler


def normalised(text: str) -> str:
    """Runs of white space as one space, none at the ends; soft hyphens and zero-width spaces dropped."""
    if "&" not in text and "  " not in text and text.isprintable():
        return text.strip(" ")  # most lines: of all white space only the space is printable
    text = " ".join(text.split())
    if "&" not in text and text.isprintable():
        return text
    text = without_unseen(text)
    # What was escaped three times over is left as it is: each time is a pass over the text.
    for _ in range(3):
        if "&" not in text or not _ESCAPED_AGAIN.search(text):
            break
        text = _ESCAPED_AGAIN.sub(lambda match: html.unescape("&" + match[1]), text)
    return " ".join(text.split())


def _nothing(state: Any, child: etree._Element, pieces: list[str]) -> None:
    pass


def _entity(state: Any, child: etree._Element, pieces: list[str]) -> None:
    # Declared in a DTD that is not read: HTML's names (&alpha;) are those that publishers use.
    pieces.append(html.unescape(child.text or ""))


def _math(state: Any, child: etree._Element, pieces: list[str]) -> None:
    pieces.append(mathml_text(child))


def _raised(state: Any, child: etree._Element, pieces: list[str]) -> None:
    pieces.append(superscript(raw_text(child)))


def _lowered(state: Any, child: etree._Element, pieces: list[str]) -> None:
    pieces.append(subscript(raw_text(child)))


PLAIN = Markup({"math": _math, "sup": _raised, "sub": _lowered})
"""Superscripts, subscripts and formulas readable, of all other tags the content."""


def inline_text(
    element: etree._Element | None, markup: Markup = PLAIN, state: object = None
) -> str:
    """The element's text, white space normalised; "" where there is no element.

    <sup> and <sub> become Unicode characters, or ^{…} and _{…} where there are none, so that
    10<sup>5</sup> never reads 105; MathML becomes readable text; comments and processing instructions
    vanish, other tags leave their content, unless `markup` says otherwise.
    """
    return "" if element is None else normalised(raw_text(element, markup, state))


def raw_text(element: etree._Element, markup: Markup = PLAIN, state: object = None) -> str:
    """Like inline_text, white space as it is."""
    if not len(element):
        return element.text or ""
    pieces: list[str] = []
    append_text(element, pieces, markup, state)
    return "".join(pieces)


def append_text(
    element: etree._Element, pieces: list[str], markup: Markup = PLAIN, state: object = None
) -> None:
    """Append the texts of the element's content to `pieces`, white space as it is."""
    if text := element.text:
        pieces.append(text)
    for child in element:
        handler = markup[child.tag]
        if handler is not None:
            handler(state, child, pieces)
        elif len(child):
            append_text(child, pieces, markup, state)
        elif text := child.text:
            pieces.append(text)
        if tail := child.tail:
            pieces.append(tail)
