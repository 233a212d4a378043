"""Finds the articles of a JATS file, in memory bounded by the largest article that is wanted."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lxml import etree

from data_prep.sources.mathml import local_name
from data_prep.sources.xml_stream import (
    PARSER_OPTIONS,
    BrokenXmlError,
    fault_of,
    release,
    xml_chunks,
)

_CHUNK = 1 << 18  # bytes of XML a step
# A file that begins with its article: no wrapper, no internal subset, no comment before.
_LONE_ARTICLE = re.compile(
    rb"\s*(?:<\?xml[^>]*\?>\s*)?(?:<!DOCTYPE[^>\[]*>\s*)?<(?:[\w.-]+:)?article[\s>]"
)
# The whole start tag, so that an empty list (<ref-list/>) is none.
_REFERENCES = re.compile(rb"<ref-list(?:\s+[\w:.-]+\s*=\s*(?:\"[^\"]*\"|'[^']*'))*\s*>")
_REFERENCES_END = b"</ref-list>"
# Elements that only change how letters look: a third of those in running text. lxml takes them away many
# times as fast as the walk passes them, but then joins a text of n pieces in n² time, so not in huge articles.
_ORDINARY_BYTES = 1 << 20
_TYPEFACES = ("italic", "bold", "sc", "underline", "roman", "sans-serif", "monospace")
# Namespaces whose elements are read as they are: formulas, and attributes alone.
_KEPT_NAMESPACES = (
    "http://www.w3.org/1998/Math/MathML",
    "http://www.w3.org/1999/xlink",
    "http://www.w3.org/XML/1998/namespace",
    "http://www.w3.org/2001/XMLSchema-instance",
)


@dataclass(frozen=True)
class TooLarge:
    """An article of more bytes of XML than are read."""

    at_least: int


def lone_article(xml: bytes, with_references: bool = True) -> etree._Element | None:
    """The article that is all of a file; None where the file must be streamed to tell what it holds."""
    if not _LONE_ARTICLE.match(xml):
        return None
    if not with_references:
        xml = _without_references(xml)
    try:
        article = etree.fromstring(xml, etree.XMLParser(**PARSER_OPTIONS))
    except etree.XMLSyntaxError:
        return None  # streamed, it says where and why
    if len(xml) <= _ORDINARY_BYTES:
        etree.strip_tags(article, *_TYPEFACES)
    return _with_plain_tags(article)


def _without_references(xml: bytes) -> bytes:
    """The XML without the last reference list after its body: half of an article's elements, and no text of it.

    One in a comment, or with comments that may hide its end, stays for the parser; what is cut wrongly (lists
    within lists) is not well-formed, so that the whole is streamed.
    """
    start, end = xml.rfind(b"<ref-list"), xml.rfind(_REFERENCES_END)
    is_whole = 0 <= start < end and _REFERENCES.match(xml, start)
    if not is_whole or xml.find(b"</body>", end) >= 0 or xml.find(b"-->", start, end) >= 0:
        return xml
    view = memoryview(xml)
    return b"".join([view[:start], view[end + len(_REFERENCES_END) :]])


def stream_articles(
    source: Path | bytes, max_article_bytes: int
) -> Iterator[etree._Element | TooLarge]:
    """Yield each <article> of a file or wrapper, freed when the next is asked for.

    An article's bytes are counted while it is fed, to within two steps; above `max_article_bytes` what was
    built of it is freed as it comes. Raises BrokenXmlError after the last whole article.
    """
    parser = etree.XMLPullParser(events=("start", "end"), tag="{*}article", **PARSER_OPTIONS)
    opened: etree._Element | None = None
    size = 0
    # Small steps where little is allowed, so that the count is not all rounding.
    for chunk in xml_chunks(_opened(source), max(1, min(_CHUNK, max_article_bytes // 8))):
        fault = fault_of(parser.feed, chunk)
        size += len(chunk)
        for event, element in parser.read_events():
            if event == "start" and opened is None:
                opened, size = element, 0
            elif event == "end" and element is opened:
                yield TooLarge(size) if size > max_article_bytes else _with_plain_tags(element)
                release(element)
                opened = None
        if fault:
            raise BrokenXmlError(fault)
        if opened is not None and size > max_article_bytes:
            _thin(opened)
    if fault := fault_of(parser.close):
        raise BrokenXmlError(fault)


def read_up_to(path: Path, limit: int) -> bytes | None:
    """The unpacked bytes of a file; None where they are more than `limit`."""
    chunks, size = [], 0
    for chunk in xml_chunks(path, 1 << 20):  # most articles at once, so that nothing is joined
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            return None
    return b"".join(chunks)


def is_lone_article(path: Path) -> bool:
    """Whether a file begins with its article, which then is all there is in it."""
    return _LONE_ARTICLE.match(next(xml_chunks(path, _CHUNK), b"")) is not None


def _opened(source: Path | bytes) -> Path | io.BytesIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _thin(element: etree._Element) -> None:
    """Free what is complete of an element that the parser is still building: all but the last of each."""
    while len(element):
        del element[:-1]
        element = element[-1]


def _with_plain_tags(article: etree._Element) -> etree._Element:
    """The article with the tags of its own namespaces replaced by their local names."""
    for uri in set(article.nsmap.values()) - set(_KEPT_NAMESPACES):
        for element in list(article.iter(f"{{{uri}}}*")):
            element.tag = local_name(element)
    return article
