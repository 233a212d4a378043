"""Books and guidelines in HTML: one document a file, its main text without menus, headers and footers."""

import codecs
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lxml import etree

from data_prep.documents import Document, Reject, empty_metadata
from data_prep.source_config import Source
from data_prep.sources.jats.metadata import language_code
from data_prep.sources.markup import normalised
from data_prep.sources.script_characters import subscript, superscript

_DECLARED = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_DECLARED_WITHIN = 1024  # bytes: HTML standard, 13.2.3.2 "prescan a byte stream"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Names that the Encoding standard reads as the larger set (https://encoding.spec.whatwg.org/#names-and-labels).
_LARGER = {"iso8859-1": "cp1252", "ascii": "cp1252", "gb2312": "gb18030", "gbk": "gb18030"}
_UNDECLARED = "cp1252"  # the HTML standard's default for what is not UTF-8
_LANGUAGE = re.compile(r"<html[^>]*?\s(?:xml:)?lang\s*=\s*[\"']?([\w-]+)", re.IGNORECASE)
_BEFORE_BODY = 10_000  # characters in which the root element begins, doctype and comments before it
_BREAKS = frozenset(["lb", "p", "item", "cell", "row", "head", "list", "quote"])


def read_pages(path: Path, name: str, source: Source) -> Iterator[Document | Reject]:
    """Yield the document of an HTML file, with id "text:NAME#1".

    Title, then headings ("# " a level), paragraphs, list items ("- ") and table rows, by trafilatura. A file
    larger than `source.max_article_bytes`, in an unknown encoding or without a main text gives a Reject.
    """
    size = path.stat().st_size
    if size > source.max_article_bytes:
        yield Reject(
            name, f"too large: {size} bytes, max_article_bytes is {source.max_article_bytes}"
        )
        return
    try:
        page = decoded(path.read_bytes())
    except (UnicodeError, LookupError) as error:
        yield Reject(name, f"unknown encoding: {error}")
        return
    yield _document(page, name)


def decoded(page: bytes) -> str:
    """A page's text, by its byte order mark, what it declares, else UTF-8 or Windows-1252.

    Raises UnicodeError or LookupError where what it declares is wrong.
    """
    for mark, encoding in _MARKS:
        if page.startswith(mark):
            return page.removeprefix(mark).decode(encoding)
    declared = _DECLARED.search(page[:_DECLARED_WITHIN])
    if declared:
        known = codecs.lookup(declared[1].decode()).name
        return page.decode(_LARGER.get(known, known))
    try:
        return page.decode("utf-8")
    except UnicodeDecodeError:
        return page.decode(_UNDECLARED)


def _document(page: str, name: str) -> Document | Reject:
    from trafilatura import bare_extraction

    # What it logs of a page without a text is the reject's reason.
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    # No network, no cache of pages seen before, and no search for a date, whose bounds are today's.
    found: Any = bare_extraction(
        # An XML declaration is refused in text that is decoded already.
        re.sub(r"^\s*<\?xml[^>]*\?>", "", page.replace("\0", "")),
        include_comments=False,
        include_tables=True,
        include_formatting=True,
        deduplicate=False,
        with_metadata=True,
        date_extraction_params={"extensive_search": False, "max_date": "2999-12-31"},
    )
    blocks = _Blocks()
    if found is not None and found.body is not None:
        blocks.add(found.body)
    if not blocks.lines:
        return Reject(name, "no text: no main text was found in the page")
    if title := normalised(found.title or ""):
        blocks.entitle(title)
    metadata = empty_metadata()
    language = _LANGUAGE.search(page[:_BEFORE_BODY])
    metadata["language"] = language_code(language[1]) if language else None
    metadata["sections"] = blocks.sections
    return Document(id=f"text:{name}#1", text=blocks.text, source="text", metadata=metadata)


class _Blocks:
    """Blocks of trafilatura's tree (https://trafilatura.readthedocs.io): `lines` are (kind, text)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.sections: list[str] = []

    @property
    def text(self) -> str:
        """The blocks, a blank line between two of them, none between items of a list or rows of a table."""
        parts = []
        for place, (kind, line) in enumerate(self.lines):
            if place:
                goes_on = kind in ("item", "row") and self.lines[place - 1][0] == kind
                parts.append("\n" if goes_on else "\n\n")
            parts.append(line)
        return "".join(parts)

    def entitle(self, title: str) -> None:
        """Begin with the title, instead of the heading that repeats it."""
        kind, first = self.lines[0]
        if kind == "head" and first.lstrip("# ").casefold() == title.casefold():
            del self.lines[0], self.sections[0]
        self.lines.insert(0, ("title", title))

    def add(self, parent: etree._Element, depth: int = 0) -> None:
        for child in parent:
            if child.tag == "head":
                self._heading(child)
            elif child.tag == "list":
                self._items(child, depth)
            elif child.tag == "table":
                self._rows(child)
            elif len(child) and any(inner.tag in ("p", "list", "head", "table") for inner in child):
                self.add(child, depth)
            else:
                self._emit(_flat(child))
            self._emit(normalised(child.tail or ""))

    def _heading(self, element: etree._Element) -> None:
        title = _flat(element)
        level = re.sub(r"\D", "", element.get("rend") or "") or "1"
        if title:
            self._emit("#" * int(level) + " " + title, "head")
            self.sections.append(title)

    def _items(self, element: etree._Element, depth: int) -> None:
        for item in element:
            inner = [child for child in item if child.tag == "list"]
            after = [child.tail or "" for child in inner]
            for child in inner:
                item.remove(child)  # its tail too
            if text := normalised(" ".join([_inline(item), *after])):
                self._emit("  " * depth + "- " + text, "item")
            for child in inner:
                self._items(child, depth + 1)

    def _rows(self, element: etree._Element) -> None:
        for row in element.iter("row"):
            cells = [_flat(cell) for cell in row.iter("cell")]
            if any(cells):
                self._emit(" | ".join(cells), "row")

    def _emit(self, text: str, kind: str = "paragraph") -> None:
        if text:
            self.lines.append((kind, text))


def _flat(element: etree._Element) -> str:
    """The element's text on one line."""
    return normalised(_inline(element))


def _inline(element: etree._Element) -> str:
    pieces = [element.text or ""]
    for child in element:
        inner = _inline(child)
        if child.get("rend") == "#sup":
            inner = superscript(inner)
        elif child.get("rend") == "#sub":
            inner = subscript(inner)
        elif child.tag in _BREAKS:
            inner = f" {inner} "
        pieces += [inner, child.tail or ""]
    return "".join(pieces)
