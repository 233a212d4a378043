"""What an article's cross-references lead to: references, figures, tables and footnotes, by their ids."""

import re
from functools import cached_property

from lxml import etree

from data_prep.sources.markup import inline_text

# As MEDITRON's gap-replay/pubmed/process.py has it: titles and captions of at most so many words; of a
# caption longer than 20 characters the words up to the first sign.
_MOST_WORDS = 12
_SHORT_CAPTION = 20
_CAPTION_ENDS = re.compile(r"[.;:()]")

_CITATIONS = ("element-citation", "mixed-citation", "citation", "nlm-citation")
_TITLES = ("article-title", "chapter-title", "part-title", "data-title", "source")
_AUTHORS = ("surname", "string-name", "collab", "institution")
_FLOATS = ("fig", "table-wrap", "fig-group", "table-wrap-group", "boxed-text", "chem-struct-wrap")
# Footnotes of these are about the article or stay with their table.
_NO_NOTES = ("author-notes", "table-wrap-foot", "front", "title-group")


class References:
    """The targets of one article's cross-references; each kind is read when it is first asked for."""

    def __init__(self, article: etree._Element):
        self._article = article

    def citation(self, rid: str) -> str | None:
        """ "The first words of the title..., Lastname" of a reference; None where either is unknown."""
        element = self._citations.get(rid)
        if element is None:
            return None
        title, author = _first_text(element, _TITLES), _first_text(element, _AUTHORS)
        return f"{shortened(title.rstrip('.'))}, {author}" if title and author else None

    def figure(self, rid: str) -> str | None:
        """ "Figure 1: The first words of the caption" of a figure or table; None where it has no caption."""
        element = self._floats.get(rid)
        if element is None:
            return None
        caption = element.find("caption")
        first = element.find("p") if caption is None else next(iter(caption), None)
        words = short_caption(inline_text(first))
        label = inline_text(element.find("label")).rstrip(".:")
        return ": ".join(filter(None, [label, words])) if words else None

    def note(self, rid: str) -> etree._Element | None:
        """A footnote of the text itself."""
        return self._notes.get(rid)

    @cached_property
    def _citations(self) -> dict[str, etree._Element]:
        return _by_id(self._article, "ref", *_CITATIONS)

    @cached_property
    def _floats(self) -> dict[str, etree._Element]:
        return _by_id(self._article, *_FLOATS)

    @cached_property
    def _notes(self) -> dict[str, etree._Element]:
        notes = _by_id(self._article, "fn")
        return {
            rid: note
            for rid, note in notes.items()
            if next(note.iterancestors(*_NO_NOTES), None) is None
        }


def _by_id(article: etree._Element, *names: str) -> dict[str, etree._Element]:
    return {rid: element for element in article.iter(*names) if (rid := element.get("id"))}


def _first_text(element: etree._Element, names: tuple[str, ...]) -> str:
    """The text of the first element of the first of these names that there is."""
    for name in names:
        for found in element.iter(name):
            if text := inline_text(found):
                return text
    return ""


def shortened(text: str) -> str:
    """The first words of a title or caption, as a token has them."""
    words = text.split()
    return " ".join(words[:_MOST_WORDS]) + ("..." if len(words) > _MOST_WORDS else "")


def short_caption(text: str) -> str:
    """The first words of a caption: of a long one no more than its first phrase."""
    if len(text) > _SHORT_CAPTION:
        text = _CAPTION_ENDS.split(text)[0].strip()
    return shortened(text.rstrip("."))


def is_figure(element: etree._Element) -> bool:
    """Whether a cross-reference leads to a figure or table."""
    return element.get("ref-type") in ("fig", "table", "table-wrap", "figure")


def rids(element: etree._Element) -> list[str]:
    """The ids that a cross-reference names."""
    return (element.get("rid") or "").split()
