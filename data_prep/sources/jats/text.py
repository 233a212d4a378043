"""Running text of JATS elements: paragraphs, headings, lists and captions, in document order."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from lxml import etree

from data_prep.sources.jats import tags as jats_tags
from data_prep.sources.jats.formulas import formula_text, shows_twice
from data_prep.sources.jats.inline import (
    FLAT,
    INLINE_HANDLERS,
    InlineState,
    nothing,
)
from data_prep.sources.jats.references import References
from data_prep.sources.jats.tables import table_rows
from data_prep.sources.markup import Markup, append_text, raw_text
from data_prep.sources.mathml import local_name

if TYPE_CHECKING:
    from data_prep.source_config import Jats

# Sections that are no running text although they stand in the body.
_ACKNOWLEDGEMENTS = re.compile(r"acknowledge?ments?", re.IGNORECASE)
_FUNDING = re.compile(
    r"funding|(?:funding|financial) (?:statement|support|information|sources?|disclosure)",
    re.IGNORECASE,
)
_DROPPED_SECTIONS = re.compile(
    r"references|bibliography|pre-publication history|about the authors?", re.IGNORECASE
)
_ONLY_PUNCTUATION = re.compile(r"[.,;:)\]]+")
_SECTIONS = frozenset({"sec", "app", "glossary", "ack"})
_TITLES = {"ack": "Acknowledgements"}  # of sections that have none of their own
_LABELLED = ("list-item", "def-item", "fn", "statement")


class RunningText(InlineState):
    """Collects the text of JATS elements as blocks; tags without namespaces, except formulas'.

    A block is a paragraph, a heading ("# " a level), a list item ("- "), a table's row or a caption;
    `sections` holds the titles whose sections had text.
    """

    def __init__(self, options: Jats, references: References | None = None):
        super().__init__(options, references)
        self.sections: list[str] = []
        self.blocks: list[str] = []
        self._is_line: list[bool] = []  # per block: an item of a list, no blank line between two
        self._inline: list[str] = []
        self._headings: list[tuple[int, str, str]] = []  # opened and without text so far
        self._level = 0
        self._item: str | None = None  # what begins the next line of the list item at hand
        self._depth = 0  # of lists

    def add(self, element: etree._Element) -> None:
        """Add the element's content."""
        append_text(element, self._inline, BLOCKS, self)
        self._flush()

    def add_child(self, child: etree._Element) -> None:
        """Add the element itself, as a walk over its parent would."""
        handler = BLOCKS[child.tag]
        if handler is None:
            append_text(child, self._inline, BLOCKS, self)
        else:
            handler(self, child, self._inline)
        self._flush()

    def add_section(self, title: str, elements: list[etree._Element]) -> None:
        """Add the elements' content under a heading, which vanishes where they have no text."""
        self._headings.append((1, title, title))
        self._level += 1
        for element in elements:
            self.add(element)
        self._headings.clear()
        self._level -= 1

    def __str__(self) -> str:
        """The blocks, a blank line between two of them, none between the items of a list."""
        parts = []
        was_line = False
        for block, is_line in zip(self.blocks, self._is_line, strict=True):
            parts.append("\n" if is_line and was_line else "\n\n")
            parts.append(block)
            was_line = is_line
        return "".join(parts[1:])

    # -- blocks

    def _flush(self) -> None:
        """End the line: what was collected becomes a block."""
        if not self._inline:
            return
        text = "".join(self._inline)
        self._inline.clear()
        if text.isspace() or not (text := self.clean(text)):
            return
        if text[0] in ".,;:)]" and self.blocks and _ONLY_PUNCTUATION.fullmatch(text):
            # The full stop after a formula or figure that stands inside a sentence.
            if self.blocks[-1][-1].isalnum():
                self.blocks[-1] += text
            return
        if self._item is None:
            self._emit(text)
        else:
            self._emit(self._item + text, is_line=True)
            self._item = " " * len(self._item)

    def _emit(self, text: str, is_line: bool = False) -> None:
        if self._headings:
            for level, heading, title in self._headings:
                self.blocks.append("#" * level + " " + heading)
                self._is_line.append(False)
                self.sections.append(title)
            self._headings.clear()
        self.blocks.append(text)
        self._is_line.append(is_line)

    def _block(self, element: etree._Element, pieces: list[str]) -> None:
        self._flush()
        append_text(element, pieces, BLOCKS, self)
        self._flush()

    def _display_formula(self, element: etree._Element, pieces: list[str]) -> None:
        self._flush()
        if shows_twice(element):
            pieces.append(formula_text(element, FLAT, self))
        else:
            append_text(element, pieces, BLOCKS, self)
        if label := self.line(_child(element, "label")):
            pieces.append(f" {label}")  # the text refers to it
        self._flush()

    def _paragraph(self, element: etree._Element, pieces: list[str]) -> None:
        if self._item is None:
            self._block(element, pieces)
        else:  # an item is one line, whatever its number of paragraphs
            pieces.append(" ")
            append_text(element, pieces, BLOCKS, self)
            pieces.append(" ")

    def _preformatted(self, element: etree._Element, pieces: list[str]) -> None:
        self._flush()
        lines = [self.clean(line) for line in raw_text(element, FLAT, self).splitlines()]
        text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
        if text:
            self._emit(text)

    def _title(self, element: etree._Element, pieces: list[str]) -> None:
        parent = element.getparent()
        if parent is None or parent.tag not in _SECTIONS:  # theirs is a heading
            self._block(element, pieces)

    def _label(self, element: etree._Element, pieces: list[str]) -> None:
        parent = element.getparent()
        if parent is not None and parent.tag in _LABELLED:
            pieces.append(self.line(element) + " ")

    def _section(self, element: etree._Element, pieces: list[str]) -> None:
        self._flush()
        title = self.line(_child(element, "title")) or _TITLES.get(element.tag, "")
        if self._is_dropped(element, title):
            return
        opened = len(self._headings)
        if title:
            self._level += 1
            heading = f"{self.line(_child(element, 'label'))} {title}".strip()
            self._headings.append((self._level, heading, title))
        append_text(element, pieces, BLOCKS, self)
        self._flush()
        del self._headings[opened:]
        self._level -= bool(title)

    def _is_dropped(self, section: etree._Element, title: str) -> bool:
        if "supplementary-material" in section.get("sec-type", ""):
            return True
        if section.tag == "ack" or _ACKNOWLEDGEMENTS.fullmatch(title):
            return not self.options.acknowledgements
        if _FUNDING.fullmatch(title):
            return not self.options.funding
        return _DROPPED_SECTIONS.fullmatch(title) is not None

    def _list(self, element: etree._Element, pieces: list[str]) -> None:
        self._flush()
        outer, self._item = self._item, None
        self._depth += 1
        append_text(element, pieces, BLOCKS, self)
        self._flush()
        self._depth -= 1
        self._item = outer and " " * len(outer)

    def _list_item(self, element: etree._Element, pieces: list[str]) -> None:
        self._flush()
        self._item = "  " * (self._depth - 1) + "- "
        if element.tag == "def-item":
            terms = [self.line(term) for term in element.findall("term")]
            pieces.append(", ".join(term for term in terms if term) + ": ")
            for definition in element.findall("def"):
                append_text(definition, pieces, BLOCKS, self)
        else:
            append_text(element, pieces, BLOCKS, self)
        self._flush()
        self._item = None

    def _boxed_text(self, element: etree._Element, pieces: list[str]) -> None:
        self._flush()
        outer, self._item = self._item, None
        caption = element.find("caption")
        titles = [element.find("label"), element.find("title")]
        if caption is not None:
            titles.append(caption.find("title"))
        if title := sentences([self.line(part) for part in titles if part is not None]):
            self._emit(title)
        for child in element:
            name = local_name(child)
            if name == "caption":
                for paragraph in child.findall("p"):
                    self._block(paragraph, pieces)
            elif name and name not in ("label", "title"):
                self.add_child(child)
        self._item = outer and " " * len(outer)

    def _block_alternatives(self, element: etree._Element, pieces: list[str]) -> None:
        """The first child that is text: the others show the same again."""
        self._flush()
        for child in element:
            if local_name(child) and local_name(child) not in jats_tags.DROPPED:
                self.add_child(child)
                return

    # -- captions and tables

    def _captioned(self, element: etree._Element, pieces: list[str]) -> None:
        self._flush()
        parts = [part for caption in element.findall("caption") for part in caption]
        captions = [self.line(part) for part in (*parts, *element.findall("p"))]
        if any(captions):
            self._emit(sentences([self.line(element.find("label")), *captions]))
        if self.options.tables == "rows" and element.tag == "table-wrap":
            self._rows(element)
            for note in element.iterfind("table-wrap-foot//fn"):
                self._emit(" ".join(filter(None, [self.line(note.find("label")), self.line(note)])))

    def _table(self, element: etree._Element, pieces: list[str]) -> None:
        """A table that has no caption."""
        if self.options.tables == "rows":
            self._flush()
            self._rows(element)

    def _rows(self, element: etree._Element) -> None:
        for table in element.iter("{*}table", "{*}tgroup", "array"):
            if next(table.iterancestors("{*}td", "{*}th", "{*}entry"), None) is None:
                for row in table_rows(table, self.line):
                    self._emit(row, is_line=True)

    def _unknown(self, element: etree._Element, pieces: list[str]) -> None:
        """A tag that jats_tags does not name: counted, its content stays."""
        self.unknown[local_name(element)] += 1
        append_text(element, pieces, BLOCKS, self)

    def _caption_group(self, element: etree._Element, pieces: list[str]) -> None:
        self._captioned(element, pieces)
        for child in element:
            if local_name(child) not in ("label", "caption", "title", ""):
                self.add_child(child)


def _child(element: etree._Element, name: str) -> etree._Element | None:
    return next(element.iterchildren(name), None)  # several times as fast as find


def sentences(parts: list[str]) -> str:
    """The parts that are not empty, each but the last ended by a full stop unless it ends itself."""
    filled = [part for part in parts if part]
    ended = [part if part[-1] in ".?!:;" else part + "." for part in filled[:-1]]
    return " ".join(ended + filled[-1:])


_Method = Callable[[RunningText, etree._Element, list[str]], None]
_HANDLERS: dict[str, _Method] = {
    "title": RunningText._title,
    "subtitle": RunningText._block,
    "label": RunningText._label,
    "list": RunningText._list,
    "list-item": RunningText._list_item,
    "def-list": RunningText._list,
    "def-item": RunningText._list_item,
    "boxed-text": RunningText._boxed_text,
    "preformat": RunningText._preformatted,
    "code": RunningText._preformatted,
    "block-alternatives": RunningText._block_alternatives,
}

BLOCKS = Markup(
    {
        **dict.fromkeys(jats_tags.INLINE),
        **INLINE_HANDLERS,
        **dict.fromkeys(jats_tags.PARAGRAPHS, RunningText._block),
        "p": RunningText._paragraph,
        "disp-formula": RunningText._display_formula,
        **_HANDLERS,
        **dict.fromkeys(jats_tags.CAPTION_ONLY, RunningText._captioned),
        **dict.fromkeys(jats_tags.CAPTION_GROUPS, RunningText._caption_group),
        **dict.fromkeys(jats_tags.TABLES, RunningText._table),
        **dict.fromkeys(_SECTIONS, RunningText._section),
        **dict.fromkeys(jats_tags.DROPPED | jats_tags.TABLE_PARTS, nothing),
    },
    RunningText._unknown,
)
"""The tags where lines may break."""
