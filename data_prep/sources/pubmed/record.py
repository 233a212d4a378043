"""One PubMed record, as the XML parser gives it, to a document: what every field is read from."""

from collections import Counter

from lxml import etree

from data_prep.documents import NLM_TERMS, Deletion, Document, Reject, empty_metadata
from data_prep.sources.identifiers import (
    first_year,
    normalised_doi,
    normalised_pmcid,
    whole_number,
)
from data_prep.sources.markup import inline_text

RECORDS = ("PubmedArticle", "PubmedBookArticle")
DELETIONS = ("DeleteCitation", "DeleteDocument")
ENGLISH = "eng"  # as NLM writes it in <Language> (MARC's code)

# What NLM writes where there is no English title (yet).
_PLACEHOLDER_TITLES = frozenset(["Not Available", "Not Available.", "In Process Citation"])
_RETRACTED_TYPES = frozenset(["Retracted Publication"])
# The article itself was retracted; RetractionOf and its like stand in the notice.
_RETRACTED_LINKS = frozenset(["RetractionIn", "RetractedandRepublishedIn"])
# "Retraction Notice" is what "Retraction of Publication" has been called since 2025.
_NOTICE_TYPES = frozenset(
    [
        "Retraction of Publication",
        "Retraction Notice",
        "Published Erratum",
        "Expression of Concern",
    ]
)


def read_deletions(block: etree._Element, file_name: str) -> list[Deletion | Reject]:
    """The entries of a DeleteCitation or DeleteDocument block, in its order."""
    found: list[Deletion | Reject] = []
    for number, element in enumerate(block.iterfind("PMID"), start=1):
        pmid, version = _pmid(element)
        if pmid is None:
            place = f"{file_name}: {block.tag} entry {number}"
            found.append(Reject(place, f"no PMID: found {inline_text(element)!r}"))
        else:
            found.append(Deletion(pmid, version))
    return found


def read_record(record: etree._Element, place: str, tally: Counter[str]) -> Document | Reject:
    """The document of a PubmedArticle or PubmedBookArticle; `place` names it where it is broken.

    `tally` counts "books", "medline dates" (a journal issue dated in words), "other abstracts" (records
    that have an abstract of another origin) and "other abstracts used".
    """
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
    metadata["language"] = chosen_language(
        [inline_text(language) for language in article.iterfind("Language")]
    )
    types = [name for kind in article.iter("PublicationType") if (name := inline_text(kind))]
    metadata["publication_types"] = types
    metadata["mesh"] = _mesh(citation)
    metadata["links"] = _links(citation)
    metadata["kind"] = "book" if is_book else "citation"
    metadata["licence"] = NLM_TERMS
    metadata["retracted"] = is_retracted_type(types) or is_retracted_link(metadata["links"])
    metadata["notice"] = is_notice_type(types)
    metadata["sections"], lines = _abstract(article, citation, tally)
    metadata["abstract"] = bool(lines)
    tally["books"] += is_book
    tally["medline dates"] += _has_medline_date(article)
    return Document(
        id=f"pmid:{pmid}",
        text=joined_text(_title(article), lines),
        source="pubmed",
        metadata=metadata,
    )


def joined_text(title: str, lines: list[str]) -> str:
    """A document's text: its title and, after a blank line, its abstract, one line a section."""
    return "\n\n".join(part for part in (title, "\n".join(lines)) if part)


def chosen_language(languages: list[str]) -> str | None:
    """English where the article is (also) in English, else the first; None where none is named."""
    named = [language.lower() for language in languages if language]
    return ENGLISH if ENGLISH in named else next(iter(named), None)


def is_retracted_type(publication_types: list[str]) -> bool:
    """Whether a publication type says that the article was retracted."""
    return not _RETRACTED_TYPES.isdisjoint(publication_types)


def is_retracted_link(links: list[dict[str, str | int | None]]) -> bool:
    """Whether a link leads to the article's own retraction."""
    return any(link["type"] in _RETRACTED_LINKS for link in links)


def is_notice_type(publication_types: list[str]) -> bool:
    """Whether a publication type says that the record is about another article."""
    return not _NOTICE_TYPES.isdisjoint(publication_types)


def usable_title(title: str) -> str:
    """The title without NLM's brackets; "" where NLM says that there is none."""
    if title.startswith("["):
        title = without_brackets(title)
    return "" if title in _PLACEHOLDER_TITLES else title


def without_brackets(title: str) -> str:
    """The title without the square brackets that NLM puts around a translated one: "[Title.]", "[Title].".

    "[3H]thymidine uptake [letter]" keeps its own.
    """
    stop = "." if title.endswith("].") else ""
    inner = title[1 : -1 - len(stop)]
    if not (title.startswith("[") and title.endswith("]" + stop)):
        return title
    depth = 0
    for character in inner if "]" in inner else "":
        depth += (character == "[") - (character == "]")
        if depth < 0:
            return title
    return inner + (stop if not inner.endswith(".") else "")


def _pmid(element: etree._Element | None) -> tuple[int | None, int]:
    """PMID and version; None where either is no number that NLM could mean."""
    if element is None:
        return None, 1
    pmid, version = (
        whole_number(inline_text(element)),
        whole_number(element.get("Version", "1"), digits=4),
    )
    return (pmid, version) if version else (None, 1)


def _title(article: etree._Element) -> str:
    return (
        usable_title(inline_text(article.find("ArticleTitle")))
        or inline_text(article.find("VernacularTitle"))
        or inline_text(article.find("Book/BookTitle"))
    )


def _abstract(
    article: etree._Element, citation: etree._Element, tally: Counter[str]
) -> tuple[list[str], list[str]]:
    """Labels and lines of the abstract, or of another English one where the article has none."""
    labels, lines = _sections(article.iterfind("Abstract/AbstractText"))
    others = citation.findall("OtherAbstract")
    tally["other abstracts"] += bool(others)
    if lines:
        return labels, lines
    for other in others:
        # The DTD's default for Language is "eng".
        if other.get("Language", ENGLISH).lower() == ENGLISH:
            labels, lines = _sections(other.iterfind("AbstractText"))
            if lines:
                tally["other abstracts used"] += 1
                break
    return labels, lines


def _sections(sections: "etree._ElementIterator") -> tuple[list[str], list[str]]:  # type: ignore[name-defined]
    """The labels of an abstract's sections, and its lines: "LABEL: text"."""
    labels, lines = [], []
    for section in sections:
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


def _has_medline_date(article: etree._Element) -> bool:
    paths = ("Journal/JournalIssue/PubDate/MedlineDate", "Book/PubDate/MedlineDate")
    return any(article.find(path) is not None for path in paths)


def _mesh(citation: etree._Element) -> list[str]:
    """ "Descriptor", or "Descriptor/Qualifier" once for each qualifier."""
    names = []
    for heading in citation.iterfind("MeshHeadingList/MeshHeading"):
        descriptor = inline_text(heading.find("DescriptorName"))
        if not descriptor:
            continue
        qualifiers = [inline_text(name) for name in heading.iterfind("QualifierName")]
        names += [f"{descriptor}/{name}" for name in qualifiers if name] or [descriptor]
    return names


def _links(citation: etree._Element) -> list[dict[str, str | int | None]]:
    """Each other article that the record names, with what it is to this one."""
    return [
        {"type": kind, "pmid": _pmid(link.find("PMID"))[0]}
        for link in citation.iterfind("CommentsCorrectionsList/CommentsCorrections")
        if (kind := link.get("RefType"))
    ]
