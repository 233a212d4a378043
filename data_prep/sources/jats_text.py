"""Running text of JATS elements: paragraphs, headings, lists and captions, in document order."""

import re
from collections import Counter
from collections.abc import Callable

from lxml import etree

from data_prep.sources import jats_tags
from data_prep.sources.jats_citations import (
    NUMBERED,
    citation_mark,
    superscript_without_citations,
    without_citations,
)
from data_prep.sources.jats_formulas import best_alternative, formula_text, shows_twice
from data_prep.sources.markup import append_text, inline_text, normalised
from data_prep.sources.mathml import local_name
from data_prep.sources.script_characters import superscript
from data_prep.sources.tex_math import tex_math

# Sections that are no running text although they stand in the body.
_DROPPED_SECTIONS = re.compile(
    r"acknowledge?ments?|funding|(?:funding|financial) (?:statement|support|information|sources?|disclosure)"
    r"|references|bibliography|pre-publication history",
    re.IGNORECASE,
)
_ONLY_PUNCTUATION = re.compile(r"[.,;:)\]]+")


class RunningText:
    """Collects the text of JATS elements (tags without namespaces) as blocks.

    A block is a paragraph, a heading ("# " a level), a list item ("- ") or a caption; `sections`
    holds the titles whose sections had text, `unknown` counts tags that jats_tags does not name
    (their content stays).
    """

    def __init__(self) -> None:
        self.sections: list[str] = []
        self.unknown: Counter[str] = Counter()
        self._blocks: list[str] = []
        self._is_line: list[bool] = []  # per block: an item of a list, no blank line between two
        self._inline: list[str] = []
        self._headings: list[tuple[int, str, str]] = []  # opened and without text so far
        self._level = 0
        self._item: str | None = None  # what begins the next line of the list item at hand
        self._depth = 0  # of lists
        self._handlers: dict[str, Callable[[etree._Element], None]] = {
            "sec": self._section,
            "title": self._title,
            "subtitle": self._block,
            "label": self._label,
            "list": self._list,
            "list-item": self._list_item,
            "def-list": self._list,
            "def-item": self._list_item,
            "boxed-text": self._boxed_text,
            "preformat": self._preformatted,
            "code": self._preformatted,
            "p": self._paragraph,
        }
        self._handlers |= dict.fromkeys(jats_tags.PARAGRAPHS - {"p"}, self._block)
        self._handlers["disp-formula"] = self._display_formula
        self._handlers |= dict.fromkeys(jats_tags.CAPTION_ONLY, self._captioned)
        self._handlers |= dict.fromkeys(jats_tags.CAPTION_GROUPS, self._caption_group)

    def add(self, element: etree._Element) -> None:
        """Add the element's content."""
        self._walk(element)
        self._flush()

    @property
    def blocks(self) -> list[str]:
        return list(self._blocks)

    def __str__(self) -> str:
        """The blocks, a blank line between two of them, none between the items of a list."""
        parts = []
        for place, (block, is_line) in enumerate(zip(self._blocks, self._is_line, strict=True)):
            if place:
                parts.append("\n" if is_line and self._is_line[place - 1] else "\n\n")
            parts.append(block)
        return "".join(parts)

    # -- the walk

    def _walk(self, element: etree._Element) -> None:
        append_text(element, self._inline, self._special)

    def _special(self, child: etree._Element, pieces: list[str]) -> bool:
        name = local_name(child)
        if name in jats_tags.DROPPED:
            return True
        if handler := self._handlers.get(name):
            handler(child)
            return True
        if name not in jats_tags.KNOWN:
            self.unknown[name] += 1
        return self._special_inline(name, child, pieces)

    def _special_inline(self, name: str, child: etree._Element, pieces: list[str]) -> bool:
        if name == "xref" and child.get("ref-type") == "bibr":
            pieces.append(citation_mark(inline_text(child)))
        elif name == "sup":
            pieces.append(self._superscript(child))
        elif name == "alternatives":
            pieces.append(best_alternative(child, self._flat))
        elif name == "tex-math":
            pieces.append(tex_math(inline_text(child)))
        elif name in ("inline-formula", "chem-struct"):
            pieces.append(
                formula_text(child, self._flat) or NUMBERED
            )  # a picture alone leaves no "( , )"
        elif name == "fn":
            pieces.append(f" ({inline_text(child, self._flat)})")
        elif name in ("break", "hr"):
            pieces.append(" ")
        else:
            return False
        return True

    def _flat(self, child: etree._Element, pieces: list[str]) -> bool:
        """Like _special, for places where no line can break: blocks become words in the line."""
        name = local_name(child)
        if name in jats_tags.DROPPED or name == "label":
            return True
        if name in self._handlers:
            pieces.append(" ")
            if shows_twice(child):
                pieces.append(formula_text(child, self._flat))
            else:
                append_text(child, pieces, self._flat)
            pieces.append(" ")
            return True
        return self._special_inline(name, child, pieces)

    def _superscript(self, element: etree._Element) -> str:
        inner: list[str] = []
        append_text(element, inner, self._flat)
        left = superscript_without_citations("".join(inner))
        if left is None:
            return NUMBERED
        return left if left.strip() in (",", ";") else superscript(left)

    # -- blocks

    def _flush(self) -> None:
        """End the line: what was collected becomes a block."""
        text = without_citations(normalised("".join(self._inline)))
        self._inline.clear()
        if not text:
            return
        if _ONLY_PUNCTUATION.fullmatch(text) and self._blocks:
            # The full stop after a formula or figure that stands inside a sentence.
            if self._blocks[-1][-1].isalnum():
                self._blocks[-1] += text
            return
        if self._item is None:
            self._emit(text)
        else:
            self._emit(self._item + text, is_line=True)
            self._item = " " * len(self._item)

    def _emit(self, text: str, is_line: bool = False) -> None:
        for level, heading, title in self._headings:
            self._blocks.append("#" * level + " " + heading)
            self._is_line.append(False)
            self.sections.append(title)
        self._headings.clear()
        self._blocks.append(text)
        self._is_line.append(is_line)

    def _block(self, element: etree._Element) -> None:
        self._flush()
        self._walk(element)
        self._flush()

    def _display_formula(self, element: etree._Element) -> None:
        self._flush()
        if shows_twice(element):
            self._inline.append(formula_text(element, self._flat))
        else:
            self._walk(element)
        self._flush()

    def _paragraph(self, element: etree._Element) -> None:
        if self._item is None:
            self._block(element)
        else:  # an item is one line, whatever its number of paragraphs
            self._inline.append(" ")
            self._walk(element)
            self._inline.append(" ")

    def _preformatted(self, element: etree._Element) -> None:
        self._flush()
        inner: list[str] = []
        append_text(element, inner, self._flat)
        lines = [normalised(line) for line in without_citations("".join(inner)).splitlines()]
        text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
        if text:
            self._emit(text)

    def _title(self, element: etree._Element) -> None:
        parent = element.getparent()
        if parent is None or parent.tag != "sec":  # a section's title is its heading
            self._block(element)

    def _label(self, element: etree._Element) -> None:
        parent = element.getparent()
        if parent is not None and parent.tag in ("list-item", "def-item", "fn", "statement"):
            self._inline.append(self._line(element) + " ")

    def _section(self, element: etree._Element) -> None:
        self._flush()
        title = self._line(element.find("title"))
        if "supplementary-material" in element.get("sec-type", "") or _DROPPED_SECTIONS.fullmatch(
            title
        ):
            return
        opened = len(self._headings)
        if title:
            self._level += 1
            heading = f"{self._line(element.find('label'))} {title}".strip()
            self._headings.append((self._level, heading, title))
        self._walk(element)
        self._flush()
        del self._headings[opened:]
        self._level -= bool(title)

    def _list(self, element: etree._Element) -> None:
        self._flush()
        outer, self._item = self._item, None
        self._depth += 1
        self._walk(element)
        self._flush()
        self._depth -= 1
        self._item = outer and " " * len(outer)

    def _list_item(self, element: etree._Element) -> None:
        self._flush()
        self._item = "  " * (self._depth - 1) + "- "
        if element.tag == "def-item":
            terms = [self._line(term) for term in element.findall("term")]
            self._inline.append(", ".join(term for term in terms if term) + ": ")
            for definition in element.findall("def"):
                self._walk(definition)
        else:
            self._walk(element)
        self._flush()
        self._item = None

    def _boxed_text(self, element: etree._Element) -> None:
        self._flush()
        outer, self._item = self._item, None
        caption = element.find("caption")
        titles = [element.find("label"), element.find("title")]
        if caption is not None:
            titles.append(caption.find("title"))
        if title := sentences([self._line(part) for part in titles if part is not None]):
            self._emit(title)
        for child in element:
            if local_name(child) == "caption":
                for paragraph in child.findall("p"):
                    self._block(paragraph)
            elif local_name(child) not in ("label", "title"):
                self._add_child(child)
        self._flush()
        self._item = outer and " " * len(outer)

    def _add_child(self, child: etree._Element) -> None:
        """Add the child itself, as a walk over its parent would."""
        if local_name(child) and not self._special(child, self._inline):
            self._walk(child)

    # -- captions

    def _captioned(self, element: etree._Element) -> None:
        self._flush()
        parts = [part for caption in element.findall("caption") for part in caption]
        captions = [self._line(part) for part in (*parts, *element.findall("p"))]
        if any(captions):
            self._emit(sentences([self._line(element.find("label")), *captions]))

    def _caption_group(self, element: etree._Element) -> None:
        self._captioned(element)
        for child in element:
            if local_name(child) not in ("label", "caption", "title"):
                self._add_child(child)
        self._flush()

    def _line(self, element: etree._Element | None) -> str:
        """The element's content on one line."""
        return without_citations(inline_text(element, self._flat))


def sentences(parts: list[str]) -> str:
    """The parts that are not empty, each but the last ended by a full stop unless it ends itself."""
    filled = [part for part in parts if part]
    ended = [part if part[-1] in ".?!:;" else part + "." for part in filled[:-1]]
    return " ".join(ended + filled[-1:])
