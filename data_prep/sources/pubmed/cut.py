"""Cuts a PubMed file into its records by a search of the bytes, as far as its form allows that."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.sources.xml_stream import CHUNK, BrokenXmlError, xml_chunks

END = b"</PubmedArticle>"
# The XML declaration with the encoding that is read here (or none, which means the same), a document type
# that declares nothing itself, and the root without attributes, hence without namespaces.
_HEAD = re.compile(
    rb"(?:<\?xml version=[\"']1\.0[\"'](?: encoding=[\"'](?i:utf-8)[\"'])?\s*\?>)?\s*"
    rb"(<!DOCTYPE [^<>\[]*>)?\s*<(PubmedArticleSet|PubmedBookArticleSet)>"
)
_HEAD_BYTES = 1 << 12
_MOST_BYTES = 8 << 20  # of one record, and of what follows the last
_NO_XML = re.compile(rb"[\0-\x08\x0b\x0c\x0e-\x1f]")
_AS_SPACES = bytes.maketrans(b"\t\r", b"  ")


class OddFileError(Exception):
    """From here on the file is the XML parser's: it reads it, or says what is broken."""


class RecordCutter:
    """The pieces of a file that each end where a PubmedArticle does, and the rest after the last.

    Of what the attributes hold, all belong to the present piece: `open_root` and `close_root` make it XML,
    `has_odd_markup` says whether a comment, CDATA section or processing instruction is in it or near it.
    """

    def __init__(self, path: Path):
        self._path = path
        self.open_root = self.close_root = b""
        self.has_odd_markup = False
        self.rest = b""

    def pieces(self) -> Iterator[bytes]:
        """Each piece, without the record's end tag; then `rest` is the end of the file, the root's end included.

        Raises OddFileError where only the XML parser can go on.
        """
        rest = b""
        try:
            for chunk in xml_chunks(self._path, CHUNK):
                rest += chunk
                if not self.open_root:
                    if len(rest) < _HEAD_BYTES and END not in rest:
                        continue
                    rest = self._after_head(rest)
                rest = _checked(rest)
                self.has_odd_markup = _has_odd_markup(rest)
                *pieces, rest = rest.split(END)
                yield from pieces
                if len(rest) > _MOST_BYTES:
                    raise OddFileError
        except BrokenXmlError as error:
            raise OddFileError from error
        if not self.open_root:
            rest = self._after_head(rest)
        self.rest = _checked(rest)

    def _after_head(self, data: bytes) -> bytes:
        head = _HEAD.match(data)
        if head is None:
            raise OddFileError
        self.open_root = (head[1] or b"") + b"<" + head[2] + b">"
        self.close_root = b"</" + head[2] + b">"
        return data[head.end() :]


def _checked(data: bytes) -> bytes:
    """`data` with the line break as the only control character; OddFileError where one is no XML."""
    values = np.frombuffer(data, np.uint8)
    # Smallest byte no less than 10, and none from 11 to 31: in unsigned bytes, these are the first after -11.
    if not data or (values.min() >= 10 and (values - np.uint8(11)).min() >= 21):
        return data
    if _NO_XML.search(data):
        raise OddFileError
    return data.translate(_AS_SPACES)  # white space of any kind reads as one space


def _has_odd_markup(data: bytes) -> bool:
    # Single characters are found far faster than pairs, and these two are rare.
    return any(_follows(data, sign) for sign in (b"!", b"?"))


def _follows(data: bytes, sign: bytes) -> bool:
    position = data.find(sign)
    while position >= 0:
        if data.startswith(b"<", position - 1):
            return True
        position = data.find(sign, position + 1)
    return False
