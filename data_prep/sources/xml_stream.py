"""Streams elements out of an XML file, plain or gzipped, in memory bounded by the largest element."""

import codecs
import re
import zlib
from collections.abc import Iterator, Sequence
from gzip import BadGzipFile
from pathlib import Path
from typing import Any, BinaryIO

from isal import igzip, isal_zlib
from lxml import etree

# Bytes of XML a step: larger ones hold more elements and gain no speed (measured), because the C library gives
# the system back what it took for them. Both PubMed readers take the same: neither gets further into a cut file.
CHUNK = 1 << 17
# Nothing outside the file is ever read. libxml2's own limits stay on (depth, amplification by entities):
# a PubMed file of 174 MB of XML passes them.
PARSER_OPTIONS: dict[str, Any] = {
    "load_dtd": False,
    "no_network": True,
    "resolve_entities": False,
    "remove_pis": True,
    "remove_comments": True,
}


_ENCODING = re.compile(r"""(?<=encoding)\s*=\s*(?:"[^">]*"|'[^'>]*')""")
_DECLARED = re.compile(rb"""<\?xml[^>]*?\sencoding\s*=\s*["']([\w.:-]+)["']""")


class BrokenXmlError(Exception):
    """The file is cut or not well-formed; the message says where and why."""


def root_tag(path: Path) -> str | None:
    """The tag of the document element; None where the file does not even begin as XML."""
    parser = etree.XMLPullParser(events=("start",), **PARSER_OPTIONS)
    try:
        for chunk in xml_chunks(path, 1 << 12):
            parser.feed(chunk)
            for _, element in parser.read_events():
                return element.tag
    except (etree.XMLSyntaxError, BrokenXmlError):
        pass
    return None


def stream_elements(path: Path | BinaryIO, tags: Sequence[str]) -> Iterator[etree._Element]:
    """Yield each element with one of these tags when it is complete; it is emptied before the next.

    `{*}name` stands for a name in any namespace. Raises BrokenXmlError after the last whole element.
    """
    parser = etree.XMLPullParser(events=("end",), tag=list(tags), **PARSER_OPTIONS)
    for chunk in xml_chunks(path, CHUNK):
        fault = fault_of(parser.feed, chunk)
        for _, element in parser.read_events():
            yield element
            release(element)
        if fault:
            raise BrokenXmlError(fault)
    if fault := fault_of(parser.close):
        raise BrokenXmlError(fault)


def fault_of(step: Any, *arguments: bytes) -> str | None:
    """Take a parser's step; why it failed, or None. What it finished before is still to be read."""
    try:
        step(*arguments)
    except etree.XMLSyntaxError as error:
        line, column = error.position
        reason = " ".join((error.msg or "not XML").split(", line ")[0].split())
        return f"line {line}, column {column}: {reason}"
    return None


def _opened(source: Path | BinaryIO) -> Any:
    if not isinstance(source, Path):
        return source
    return igzip.open(source, "rb") if source.name.endswith(".gz") else source.open("rb")


def xml_chunks(source: Path | BinaryIO, size: int) -> Iterator[bytes]:
    position = 0
    with _opened(source) as stream:
        while True:
            try:
                chunk = stream.read(size)
            except (EOFError, BadGzipFile, zlib.error, isal_zlib.IsalError) as error:  # type: ignore[misc]
                raise BrokenXmlError(f"byte {position} of the unpacked XML: {error}") from error
            if not chunk:
                return
            yield chunk
            position += len(chunk)


def xml_text(xml: bytes) -> str:
    """The text of an XML file in the encoding that it declares, which its declaration then says is UTF-8.

    Raises UnicodeError or LookupError where it is not in that encoding or nobody knows it.
    """
    declared = _DECLARED.match(xml)
    encoding = declared[1].decode() if declared else "utf-8"
    if xml.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    text = xml.decode(encoding)
    if codecs.lookup(encoding).name == "utf-8" or not text.startswith("<?xml"):
        return text
    end = text.find(">")
    return _ENCODING.sub('="UTF-8"', text[:end]) + text[end:]


def release(element: etree._Element) -> None:
    """Free the element's content and what stands before it in its parent."""
    element.clear()
    parent = element.getparent()
    if parent is not None:
        while element.getprevious() is not None:
            del parent[0]


def count_tags(path: Path, name: str) -> int:
    """How many start tags of this local name the readable part of a broken file holds, about.

    A search of the bytes, good enough to tell one article from several.
    """
    is_start = re.compile(rb"(?:[\w.-]+:)?" + name.encode() + rb"[\s>]").match
    count, rest = 0, b""
    try:
        for chunk in xml_chunks(path, CHUNK):
            *pieces, rest = (rest + chunk).split(b"<")
            count += sum(map(bool, map(is_start, pieces)))
    except BrokenXmlError:
        pass
    return count + bool(is_start(rest))
