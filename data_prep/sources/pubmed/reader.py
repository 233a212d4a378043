"""PubMed citations from the XML files that NLM distributes.

The elements are those of NLM's DTD (https://dtd.nlm.nih.gov/ncbi/pubmed/doc/out/), which is not read:
files of any year go through. Records are cut out by a search of the bytes and read from their characters
where they have the form that NLM writes; lxml reads every other record, and a file of any other form.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from lxml import etree

from data_prep.documents import Deletion, Document, Reject
from data_prep.errors import DataError
from data_prep.sources.compressed import refuse_twice_compressed
from data_prep.sources.pubmed.cut import END, OddFileError, RecordCutter
from data_prep.sources.pubmed.fields import NotSimple, read_simple
from data_prep.sources.pubmed.record import DELETIONS, RECORDS, read_deletions, read_record
from data_prep.sources.xml_stream import (
    PARSER_OPTIONS,
    BrokenXmlError,
    root_tag,
    stream_elements,
)

_ROOTS = ("PubmedArticleSet", "PubmedBookArticleSet")

_PARSER = etree.XMLParser(**PARSER_OPTIONS)

Record = Document | Deletion | Reject


def read_citations(path: Path, tally: Counter[str] | None = None) -> Iterator[Record]:
    """Yield the records of a PubMed file (.xml or .xml.gz) in file order, deletions as they stand there.

    A document's text is its title and, after a blank line, its abstract, one line a section. Memory
    is bounded by one record and a step of reading. `tally` counts what read_record names. Raises DataError
    where the file is not PubMed's, is cut or is not well-formed, after everything before that place has
    been yielded.

    The documents are those that an XML parser gives for every file in which the elements stand in
    the DTD's order. Of a file that is not well-formed, a fault inside what no document is made of (an
    author's name, a reference) may go unnoticed; a cut file, bytes that are no UTF-8 and NULs never do.
    """
    tally = Counter() if tally is None else tally
    done = 0
    try:
        for record in _cut_and_read(path, tally):
            done += 1
            yield record
    except OddFileError:
        yield from parse_citations(path, tally, done)


def _cut_and_read(path: Path, tally: Counter[str]) -> Iterator[Record]:
    """The records up to the end, or to an OddFileError."""
    cutter = RecordCutter(path)
    number = 0
    for piece in cutter.pieces():
        if not (cutter.has_odd_markup and (b"<!" in piece or b"<?" in piece)):
            try:
                document, in_words = read_simple(str(piece, "utf-8"))
            except NotSimple:
                pass
            except UnicodeDecodeError as error:
                raise OddFileError from error
            else:
                number += 1
                tally["medline dates"] += in_words
                yield document
                continue
        xml = cutter.open_root + piece + END + cutter.close_root
        for element in _parsed_records(xml):
            number += element.tag in RECORDS
            yield from _records(element, path, number, tally)
    for element in _parsed_records(cutter.open_root + cutter.rest):
        number += element.tag in RECORDS
        yield from _records(element, path, number, tally)


def _parsed_records(xml: bytes) -> Iterator[etree._Element]:
    """The records and deletion blocks of a whole small document."""
    try:
        root = etree.fromstring(xml, _PARSER)
    except etree.XMLSyntaxError as error:
        raise OddFileError from error
    for element in root.iter(*RECORDS, *DELETIONS):
        if element.getparent() is not root:
            raise OddFileError
        yield element


def _records(
    element: etree._Element, path: Path, number: int, tally: Counter[str]
) -> Sequence[Record]:
    """What a deletion block, or the file's record of this number, holds."""
    if element.tag in DELETIONS:
        return read_deletions(element, path.name)
    return [read_record(element, f"{path.name}: record {number}", tally)]


def parse_citations(
    path: Path, tally: Counter[str] | None = None, skip: int = 0
) -> Iterator[Record]:
    """The same by lxml alone, the first `skip` records left out (and not tallied)."""
    tally = Counter() if tally is None else tally
    found = root_tag(path)
    if found is not None and found not in _ROOTS:
        raise DataError(
            f"{path}: the root element is <{found}>, expected <{_ROOTS[0]}>: not a PubMed file; "
            "check the source's format"
        )
    number, passed, last = 0, 0, "no whole record before"
    try:
        for element in stream_elements(path, RECORDS + DELETIONS):
            number += element.tag in RECORDS
            counted = tally if passed >= skip else Counter[str]()
            for record in _records(element, path, number, counted):
                if isinstance(record, dict):
                    last = f"the last whole record is number {number}, PMID {record['metadata']['pmid']}"
                passed += 1
                if passed > skip:
                    yield record
    except BrokenXmlError as error:
        refuse_twice_compressed(path)
        raise DataError(f"{path}: broken at {error}; {last}; fetch the file again") from error
