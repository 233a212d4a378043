"""A second reading of PubMed's articles, with plain lxml and nothing clever, for comparison."""

import gzip
import re

from lxml import etree

from data_prep.documents import empty_metadata
from data_prep.sources.markup import inline_text

NOTICES = {
    "Published Erratum",
    "Expression of Concern",
    "Retraction of Publication",
    "Retraction Notice",
}


def plain_documents(path):
    """Each PubmedArticle of a .xml.gz file as a document; books and deletions left out."""
    with gzip.open(path) as stream:
        for _, record in etree.iterparse(stream, tag="PubmedArticle"):
            yield plain_document(record)
            record.clear()
            while record.getprevious() is not None:
                del record.getparent()[0]


def words(element):
    """The element's text with single spaces; markup inside is tested where it is read."""
    if element is None:
        return ""
    if len(element):
        return inline_text(element)
    return " ".join(re.sub("[\u00ad\u200b\ufeff]", "", element.text or "").split())


def plain_document(record):
    citation, data = record.find("MedlineCitation"), record.find("PubmedData")
    article = citation.find("Article")
    pmid = citation.find("PMID")
    types = [words(kind) for kind in article.findall("PublicationTypeList/PublicationType")]
    languages = [words(language) for language in article.findall("Language")]
    sections = article.findall("Abstract/AbstractText")
    if not any(words(section) for section in sections):
        sections = citation.xpath("OtherAbstract[@Language='eng'][1]/AbstractText")
    sections = [section for section in sections if words(section)]
    links = [
        {"type": link.get("RefType"), "pmid": int(link.findtext("PMID") or 0) or None}
        for link in citation.findall("CommentsCorrectionsList/CommentsCorrections")
    ]
    ids = {item.get("IdType"): item.text for item in data.findall("ArticleIdList/ArticleId")}
    doi = ids.get("doi") or article.findtext("ELocationID[@EIdType='doi']")
    dated = words(article.find("Journal/JournalIssue/PubDate"))
    year = article.findtext("Journal/JournalIssue/PubDate/Year") or re.search(r"\d{4}", dated)[0]
    metadata = {
        "pmid": int(pmid.text),
        "version": int(pmid.get("Version")),
        "pmcid": ids.get("pmc"),
        "doi": doi.lower() if doi and re.match(r"10\.\d{4}", doi) else None,
        "journal": words(article.find("Journal/Title")),
        "year": int(year),
        "language": "eng" if "eng" in languages else languages[0],
        "publication_types": types,
        "mesh": [name for heading in citation.iter("MeshHeading") for name in mesh(heading)],
        "links": links,
        "kind": "citation",
        "abstract": bool(sections),
        "licence": "nlm-terms",
        "retracted": "Retracted Publication" in types
        or any(link["type"] in ("RetractionIn", "RetractedandRepublishedIn") for link in links),
        "notice": bool(NOTICES & set(types)),
        "sections": [section.get("Label") for section in sections if section.get("Label")],
    }
    lines = [
        f"{section.get('Label')}: {words(section)}" if section.get("Label") else words(section)
        for section in sections
    ]
    text = "\n\n".join(part for part in (title(article), "\n".join(lines)) if part)
    return {
        "id": f"pmid:{pmid.text}",
        "text": text,
        "source": "pubmed",
        "metadata": empty_metadata() | metadata,
    }


def mesh(heading):
    name = heading.findtext("DescriptorName")
    qualifiers = [qualifier.text for qualifier in heading.findall("QualifierName")]
    return [f"{name}/{qualifier}" for qualifier in qualifiers] or [name]


def title(article):
    found = words(article.find("ArticleTitle"))
    bracketed = re.fullmatch(r"\[(.*)\](\.?)", found)
    if bracketed and balanced(bracketed[1]):
        found = bracketed[1] + ("" if bracketed[1].endswith(".") else bracketed[2])
    if found in ("", "Not Available", "Not Available.", "In Process Citation"):
        return words(article.find("VernacularTitle"))
    return found


def balanced(text):
    """Whether no bracket closes before it opens: "[3H]thymidine [letter]" is not bracketed as a whole."""
    while "[" in text and (shorter := re.sub(r"\[[^\[\]]*\]", "", text)) != text:
        text = shorter
    return "]" not in text
