"""What becomes of JATS elements inside a line: citations, footnotes, formulas, raised and lowered text."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from lxml import etree

from data_prep.sources.jats import tags as jats_tags
from data_prep.sources.jats.citations import (
    NUMBERED,
    citation_mark,
    kept_mark,
    note_mark,
    resolved,
    split_superscript,
    tidy_tokens,
    token_mark,
    token_text,
)
from data_prep.sources.jats.formulas import best_alternative, formula_text, shows_twice
from data_prep.sources.jats.references import References, is_figure, rids
from data_prep.sources.markup import Markup, append_text, inline_text, normalised, raw_text
from data_prep.sources.mathml import local_name, mathml_text
from data_prep.sources.script_characters import subscript, superscript
from data_prep.sources.tex_math import tex_math

if TYPE_CHECKING:
    from data_prep.source_config import Jats

# A glyph of a font that the reader does not have: it stands for a sign that nobody here can know, so that
# "5 <glyph>g" must not become "5 g".
_PRIVATE_USE = {code: 0xFFFD for code in range(0xE000, 0xF900)}


class InlineState:
    """What the walk over one article's lines needs to know, and what it counts.

    `unknown` counts tags that jats_tags does not name (their content stays).
    """

    def __init__(self, options: Jats, references: References | None = None):
        self.options = options
        self.references = references or References(etree.Element("article"))
        self.unknown: Counter[str] = Counter()
        self._notes: set[str] = set()  # ids of the footnotes that stand in the text already
        self._in_note = False

    def line(self, element: etree._Element | None) -> str:
        """The element's content on one line."""
        return "" if element is None else self.clean(raw_text(element, FLAT, self))

    def clean(self, text: str) -> str:
        """A line as it stands in the document: marks resolved, white space normalised."""
        if text.isprintable():  # no marks, which are not, and no white space but the space
            return normalised(text) if "  " in text or "&" in text else text.strip(" ")
        text = normalised(resolved(text))
        if not text.isprintable():
            text = text.translate(_PRIVATE_USE)
        return tidy_tokens(text) if self.options.citations == "tokens" else text

    def note(self, rid: str) -> str:
        """The text of the footnote of this id, where no reference has led to it before."""
        note = self.references.note(rid)
        # Notes may refer to notes; those within one are left as they are printed.
        if note is None or rid in self._notes or self._in_note:
            return ""
        self._notes.add(rid)
        self._in_note = True
        text = self.line(note)
        self._in_note = False
        return text


def nothing(state: InlineState, child: etree._Element, pieces: list[str]) -> None:
    """For elements that are dropped."""


def _unknown(state: InlineState, child: etree._Element, pieces: list[str]) -> None:
    """For elements that jats_tags does not name: counted, their content stays."""
    state.unknown[local_name(child)] += 1
    append_text(child, pieces, FLAT, state)


def _cross_reference(state: InlineState, child: etree._Element, pieces: list[str]) -> None:
    kind = child.get("ref-type")
    if kind == "bibr":
        pieces.append(_citation(state, child))
    elif kind == "fn" and (note := _note(state, child)):
        pieces.append(note)
    elif kind == "table-fn" and _is_level(child):
        _raised(state, child, pieces)  # printed so, although the XML does not say it
    elif figure := _figure(state, child):
        pieces.append(token_text(figure, "fig_ref"))
    else:
        append_text(child, pieces, FLAT, state)


def _citation(state: InlineState, child: etree._Element) -> str:
    match state.options.citations:
        case "drop":
            return citation_mark(raw_text(child, FLAT, state))
        case "keep":
            is_raised = next(child.iter("sup"), None) is not None
            text = "".join(child.itertext(etree.Element))
            return kept_mark(text.strip(" []") if is_raised else text, is_raised)
    titles = (state.references.citation(rid) for rid in rids(child))
    return "".join(token_mark(title, "bib_ref") for title in titles if title) or NUMBERED


def _figure(state: InlineState, child: etree._Element) -> str:
    if state.options.citations != "tokens" or not is_figure(child):
        return ""
    figures = (state.references.figure(rid) for rid in rids(child))
    return "; ".join(figure for figure in figures if figure)


def _is_level(element: etree._Element) -> bool:
    """Whether nothing around it or in it is raised."""
    inside, around = element.iter("sup"), element.iterancestors("sup")
    return next(inside, None) is None and next(around, None) is None


def _note(state: InlineState, child: etree._Element) -> str:
    texts = (state.note(rid) for rid in rids(child))
    return "".join(note_mark(text) for text in texts if text)


def _raised(state: InlineState, child: etree._Element, pieces: list[str]) -> None:
    left, after = split_superscript(raw_text(child, FLAT, state))
    pieces.append(left if left.strip() in (",", ";") else superscript(left))
    pieces.append(after)


def _lowered(state: InlineState, child: etree._Element, pieces: list[str]) -> None:
    left, after = split_superscript(raw_text(child, FLAT, state))
    pieces.append(subscript(left))
    pieces.append(after)


def _alternatives(state: InlineState, child: etree._Element, pieces: list[str]) -> None:
    pieces.append(best_alternative(child, FLAT, state))


def _tex(state: InlineState, child: etree._Element, pieces: list[str]) -> None:
    pieces.append(tex_math(inline_text(child)))


def _math(state: InlineState, child: etree._Element, pieces: list[str]) -> None:
    pieces.append(mathml_text(child))


def _formula(state: InlineState, child: etree._Element, pieces: list[str]) -> None:
    # A picture alone leaves no "( , )".
    pieces.append(formula_text(child, FLAT, state) or NUMBERED)


def _footnote(state: InlineState, child: etree._Element, pieces: list[str]) -> None:
    if text := state.line(child):
        pieces.append(note_mark(text))


def _break(state: InlineState, child: etree._Element, pieces: list[str]) -> None:
    pieces.append(" ")


def _flat_block(state: InlineState, child: etree._Element, pieces: list[str]) -> None:
    """A block where no line can break: its words in the line."""
    pieces.append(" ")
    if shows_twice(child):
        pieces.append(formula_text(child, FLAT, state))
    else:
        append_text(child, pieces, FLAT, state)
    pieces.append(" ")


def _flat_table(state: InlineState, child: etree._Element, pieces: list[str]) -> None:
    if state.options.tables == "rows":
        _flat_block(state, child, pieces)


INLINE_HANDLERS = {
    "xref": _cross_reference,
    "sup": _raised,
    "sub": _lowered,
    "alternatives": _alternatives,
    "tex-math": _tex,
    "math": _math,
    "inline-formula": _formula,
    "chem-struct": _formula,
    "fn": _footnote,
    "break": _break,
    "hr": _break,
}
_BLOCKS = (
    jats_tags.PARAGRAPHS | jats_tags.HANDLED | jats_tags.CAPTION_ONLY | jats_tags.CAPTION_GROUPS
)

FLAT = Markup(
    {
        **dict.fromkeys(jats_tags.INLINE),
        **INLINE_HANDLERS,
        **dict.fromkeys(_BLOCKS, _flat_block),
        **dict.fromkeys(jats_tags.TABLES | jats_tags.TABLE_PARTS, _flat_table),
        **dict.fromkeys(jats_tags.DROPPED | jats_tags.OPTIONAL | {"label"}, nothing),
    },
    _unknown,
)
"""The tags in a line that must not break: a heading, a caption, a cell."""
