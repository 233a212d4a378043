"""PubMed citations from the XML files that NLM distributes.

The elements are those of NLM's DTD (https://dtd.nlm.nih.gov/ncbi/pubmed/doc/out/), which is not read:
files of any year go through.
"""

from collections.abc import Iterator
from pathlib import Path

from lxml import etree

from data_prep.documents import NLM_TERMS, Deletion, Document, Reject, empty_metadata
from data_prep.errors import DataError
from data_prep.sources.identifiers import (
    first_year,
    normalised_doi,
    normalised_pmcid,
    whole_number,
)
from data_prep.sources.markup import inline_text
from data_prep.sources.xml_stream import BrokenXmlError, root_tag, stream_elements

_ROOTS = ("PubmedArticleSet", "PubmedBookArticleSet")
_RECORDS = ("PubmedArticle", "PubmedBookArticle")
_DELETIONS = ("DeleteCitation", "DeleteDocument")
# What NLM writes where there is no English title (yet).
_PLACEHOLDER_TITLES = frozenset(["Not Available", "Not Available.", "In Process Citation"])
_RETRACTED_TYPES = frozenset(["Retracted Publication"])
# The article itself was retracted; RetractionOf and its like stand in the notice.
_RETRACTED_LINKS = frozenset(["RetractionIn", "RetractedandRepublishedIn"])


def read_citations(path: Path) -> Iterator[Document | Deletion | Reject]:
    """Yield the records of a PubMed file (.xml or .xml.gz) in file order, deletions as they stand there.

    A document's text is its title and, after a blank line, its abstract, one line a section. Memory
    is bounded by one record and a step of reading. Raises DataError where the file is not PubMed's, is
    cut or is not well-formed, after everything before that place has been yielded.
    """
    found = root_tag(path)
    if found is not None and found not in _ROOTS:
        raise DataError(
            f"{path}: the root element is <{found}>, expected <{_ROOTS[0]}>: not a PubMed file; "
            "check the source's format"
        )
    number, last = 0, "no whole record before"
    try:
        for element in stream_elements(path, _RECORDS + _DELETIONS):
            if element.tag in _DELETIONS:
                yield from _deletions(element, path)
                continue
            number += 1
            record = _document(element, f"{path.name}: record {number}")
            if not isinstance(record, Reject):
                last = (
                    f"the last whole record is number {number}, PMID {record['metadata']['pmid']}"
                )
            yield record
    except BrokenXmlError as error:
        raise DataError(f"{path}: broken at {error}; {last}; fetch the file again") from error


def _deletions(block: etree._Element, path: Path) -> Iterator[Deletion | Reject]:
    for number, element in enumerate(block.iterfind("PMID"), start=1):
        pmid, version = _pmid(element)
        if pmid is None:
            place = f"{path.name}: {block.tag} entry {number}"
            yield Reject(place, f"no PMID: found {inline_text(element)!r}")
        else:
            yield Deletion(pmid, version)


def _pmid(element: etree._Element | None) -> tuple[int | None, int]:
    """PMID and version; None where either is no number that NLM could mean."""
    if element is None:
        return None, 1
    pmid, version = (
        whole_number(inline_text(element)),
        whole_number(element.get("Version", "1"), digits=4),
    )
    return (pmid, version) if version else (None, 1)


def _document(record: etree._Element, place: str) -> Document | Reject:
    is_book = record.tag == "PubmedBookArticle"
    citation = record.find("BookDocument" if is_book else "MedlineCitation")
    if citation is None:
        return Reject(place, "no citation: the record is empty")
    element = citation.find("PMID")
    pmid, version = _pmid(element)
    if pmid is None:
        return Reject(place, f"no PMID: found {inline_text(element)!r}")
    article = citation if is_book else citation.find("Article")
    if article is None:
        return Reject(place, f"no Article element: PMID {pmid}")
    data = record.find("PubmedBookData" if is_book else "PubmedData")
    metadata = empty_metadata()
    metadata["pmid"], metadata["version"] = pmid, version
    metadata["pmcid"], metadata["doi"] = _other_ids(article, citation, data)
    metadata["journal"] = _journal(citation, article) or None
    metadata["year"] = _year(article, data)
    metadata["language"] = inline_text(article.find("Language")).lower() or None
    metadata["publication_types"] = [
        name for kind in article.iter("PublicationType") if (name := inline_text(kind))
    ]
    metadata["licence"] = NLM_TERMS
    metadata["retracted"] = _is_retracted(citation, metadata["publication_types"])
    metadata["sections"], lines = _abstract(article)
    metadata["abstract"] = bool(lines)
    parts = [_title(article), "\n".join(lines)]
    text = "\n\n".join(part for part in parts if part)
    return Document(id=f"pmid:{pmid}", text=text, source="pubmed", metadata=metadata)


def _title(article: etree._Element) -> str:
    title = without_brackets(inline_text(article.find("ArticleTitle")))
    if title and title not in _PLACEHOLDER_TITLES:
        return title
    vernacular = inline_text(article.find("VernacularTitle"))
    return vernacular or inline_text(article.find("Book/BookTitle"))


def without_brackets(title: str) -> str:
    """The title without the square brackets that NLM puts around a translated one: "[Title.]", "[Title].".

    "[3H]thymidine uptake [letter]" keeps its own.
    """
    stop = "." if title.endswith("].") else ""
    inner = title[1 : -1 - len(stop)]
    if not (title.startswith("[") and title.endswith("]" + stop)):
        return title
    depth = 0
    for character in inner:
        depth += (character == "[") - (character == "]")
        if depth < 0:
            return title
    return inner + (stop if not inner.endswith(".") else "")


def _abstract(article: etree._Element) -> tuple[list[str], list[str]]:
    """The labels of the abstract's sections, and its lines: "LABEL: text"."""
    labels, lines = [], []
    for section in article.iterfind("Abstract/AbstractText"):
        text = inline_text(section)
        if not text:
            continue
        label = " ".join(section.get("Label", "").split())
        if label:
            labels.append(label)
        lines.append(f"{label}: {text}" if label else text)
    return labels, lines


def _other_ids(
    article: etree._Element, citation: etree._Element, data: etree._Element | None
) -> tuple[str | None, str | None]:
    """PMCID and DOI of the article itself: its references have lists of the same name further down."""
    pmcid = doi = None
    for parent in (data, citation):
        for element in parent.iterfind("ArticleIdList/ArticleId") if parent is not None else ():
            kind = element.get("IdType")
            if kind in ("pmc", "pmcid"):
                pmcid = pmcid or normalised_pmcid(inline_text(element))
            elif kind == "doi":
                doi = doi or normalised_doi(inline_text(element))
    for element in article.iterfind("ELocationID"):
        if element.get("EIdType") == "doi" and element.get("ValidYN") != "N":
            doi = doi or normalised_doi(inline_text(element))
    return pmcid, doi


def _journal(citation: etree._Element, article: etree._Element) -> str:
    for parent, path in (
        (article, "Journal/Title"),
        (article, "Journal/ISOAbbreviation"),
        (citation, "MedlineJournalInfo/MedlineTA"),
        (article, "Book/BookTitle"),
    ):
        if name := inline_text(parent.find(path)):
            return name
    return ""


def _year(article: etree._Element, data: etree._Element | None) -> int | None:
    for parent, path in (
        (article, "Journal/JournalIssue/PubDate/Year"),
        (article, "Journal/JournalIssue/PubDate/MedlineDate"),
        (article, "Book/PubDate/Year"),
        (article, "Book/PubDate/MedlineDate"),
        (article, "ArticleDate/Year"),
        (data, "History/PubMedPubDate[@PubStatus='pubmed']/Year"),
        (data, "History/PubMedPubDate/Year"),
    ):
        if parent is not None and (year := first_year(inline_text(parent.find(path)))):
            return year
    return None


def _is_retracted(citation: etree._Element, publication_types: list[str]) -> bool:
    if not _RETRACTED_TYPES.isdisjoint(publication_types):
        return True
    links = citation.iterfind("CommentsCorrectionsList/CommentsCorrections")
    return any(link.get("RefType") in _RETRACTED_LINKS for link in links)
