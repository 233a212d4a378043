"""The metadata of a JATS article: identifiers, dates, licence, and what it says about other articles."""

import re
from functools import lru_cache
from typing import Any

import langcodes
from lxml import etree

from data_prep.documents import empty_metadata
from data_prep.sources.identifiers import (
    first_year,
    normalised_doi,
    normalised_pmcid,
    pmcid_version,
    whole_number,
)
from data_prep.sources.licence import licence_code
from data_prep.sources.markup import inline_text

LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_HREF = "{http://www.w3.org/1999/xlink}href"
_LONGEST_ID = 300  # characters; no identifier is longer
# Notices about another article: a link to a retracted article is what they are for.
_ABOUT_OTHERS = frozenset({
    "retraction", "partial-retraction", "correction", "addendum", "expression-of-concern", "reply",
    "editorial", "letter", "article-commentary", "discussion", "news", "republication",
})  # fmt: skip
_NOTICES = frozenset({
    "retraction", "partial-retraction", "correction", "addendum", "expression-of-concern", "erratum",
    "corrigendum", "withdrawal", "removal",
})  # fmt: skip
# Types that say nothing: whether such a record is a notice, its links tell.
_VAGUE_TYPES = frozenset({"", "other", "news", "announcement", "editorial", "letter"})
# JATS's names of what links to what (suggested values of @related-article-type, and PMC's tagging
# guidelines) and PubMed's (RefType of CommentsCorrections in its DTD) for the same.
_REF_TYPES = {
    "retracted-article": "RetractionOf",
    "retraction-forward": "RetractionIn",
    "retraction": "RetractionIn",
    "partial-retraction": "PartialRetractionOf",
    "partial-retraction-forward": "PartialRetractionIn",
    "corrected-article": "ErratumFor",
    "correction": "ErratumIn",
    "correction-forward": "ErratumIn",
    "erratum": "ErratumIn",
    # "Corrections, corrigenda, addenda … are all uniformly considered by NLM to be errata."
    "addended-article": "ErratumFor",
    "addendum": "ErratumIn",
    "object-of-concern": "ExpressionOfConcernFor",
    "concern-forward": "ExpressionOfConcernIn",
    "expression-of-concern": "ExpressionOfConcernIn",
    "commentary-article": "CommentOn",
    "commentary": "CommentIn",
    "updated-article": "UpdateOf",
    "update": "UpdateIn",
    "preprint": "UpdateOf",
    "version-of-record": "UpdateIn",
    "published-article": "UpdateIn",
    "republished-article": "RepublishedFrom",
}
_OF_NOTICES = frozenset(
    {"RetractionOf", "PartialRetractionOf", "ErratumFor", "ExpressionOfConcernFor"}
)
_PUBMED = re.compile(r"(?:.*(?:pubmed\.ncbi\.nlm\.nih\.gov/|/pubmed/))?([0-9]{1,9})/?")
_RETRACTED_TITLE = re.compile(r"\W*(?:RETRACTED\b|(?i:retracted(?:\s+(?:article|paper))?)\s*[:\]])")


def article_metadata(
    article: etree._Element, meta: etree._Element, title: str, name: str
) -> dict[str, Any]:
    """All metadata that the front matter holds; `name` is the file's, which may tell the version."""
    metadata = empty_metadata()
    _identifiers(metadata, meta)
    metadata["version"] = metadata["version"] or _version_in_path(name, metadata["pmcid"])
    kind = article.get("article-type") or ""
    metadata["journal"] = _journal(article.find("front"))
    metadata["year"] = _year(meta)
    metadata["language"] = language_code(article.get(LANGUAGE) or "en")
    metadata["publication_types"] = [kind] if kind else []
    metadata["mesh"] = _mesh(meta)
    metadata["licence"] = licence_code(meta)
    related = meta.findall("related-article")
    metadata["links"] = _links(related)
    metadata["retracted"] = _is_retracted(kind, related, title)
    metadata["notice"] = _is_notice(kind, metadata["links"])
    return metadata


def custom_properties(meta: etree._Element) -> dict[str, str]:
    """What PMC adds to an article's front matter: {"pmc-prop-manuscript": "yes"}."""
    return {
        inline_text(custom.find("meta-name")): inline_text(custom.find("meta-value"))
        for custom in meta.iter("custom-meta")
    }


def is_manuscript(meta: etree._Element, properties: dict[str, str], has_mark: bool) -> bool:
    """Whether this is an author manuscript, not what the journal printed.

    PMC's own property decides (Europe PMC writes it without prefix), as a manuscript's id stays where the
    published version replaces it; before there were properties, `has_mark`, the processing
    instruction <?properties manuscript?>, or what the NIH's submission system left.
    """
    for name in ("pmc-prop-manuscript", "is-manuscript"):
        if name in properties:
            return properties[name] == "yes"
    if has_mark or meta.find("pub-date[@pub-type='nihms-submitted']") is not None:
        return True
    return meta.find("article-id[@pub-id-type='manuscript']") is not None


def is_machine_read(body: etree._Element | None, properties: dict[str, str]) -> bool:
    """Whether the body is nothing but a scan that a machine read."""
    if body is None:
        return False
    if "yes" in (
        properties.get("pmc-prop-is-ocr-article"),
        properties.get("pmc-prop-is-scanned-article"),
    ):
        return True
    scans = ("ocr" in (part.get("preformat-type") or "") for part in body.iter("preformat"))
    return any(scans) and next(body.iter("p"), None) is None


def identifier_of(metadata: dict[str, Any]) -> str | None:
    """The document's id by the best identifier that is known."""
    for key in ("pmcid", "pmid", "doi"):
        if metadata[key]:
            return f"{key}:{metadata[key]}"
    return None


def _identifiers(metadata: dict[str, Any], meta: etree._Element) -> None:
    for element in meta.findall("article-id"):
        kind, value = element.get("pub-id-type"), inline_text(element)[:_LONGEST_ID]
        if kind in ("pmc", "pmcid", "pmcid-ver"):
            metadata["pmcid"] = metadata["pmcid"] or normalised_pmcid(value)
            metadata["version"] = metadata["version"] or pmcid_version(value)
        elif kind == "pmid":
            metadata["pmid"] = metadata["pmid"] or whole_number(value)
        elif kind == "doi":
            metadata["doi"] = metadata["doi"] or normalised_doi(value)


def _version_in_path(name: str, pmcid: str | None) -> int | None:
    """2 from "PMC123.2/PMC123.2.xml", as PMC's cloud service names an article's files."""
    match = re.search(rf"(?:^|/){pmcid}\.([0-9]{{1,4}})(?=[./]|$)", name) if pmcid else None
    return whole_number(match[1], digits=4) if match else None


def _journal(front: etree._Element) -> str | None:
    for path in (
        "journal-meta//journal-title",
        "journal-meta//abbrev-journal-title",
        "journal-meta/journal-id",
    ):
        if journal := inline_text(front.find(path)):
            return journal
    return None


def _year(meta: etree._Element) -> int | None:
    """The earliest year of publication; when a manuscript was submitted to NIH is none."""
    dates = [date for date in meta.findall("pub-date") if date.get("pub-type") != "nihms-submitted"]
    years = [first_year(inline_text(date.find("year"))) for date in dates]
    return min((year for year in years if year), default=None)


@lru_cache(1024)
def language_code(tag: str) -> str | None:
    """ISO 639-2/B, as PubMed writes languages ("ger", not "deu"), of a BCP 47 tag; None if it is none."""
    try:
        return langcodes.Language.get(tag).to_alpha3(variant="B")
    except (LookupError, ValueError):
        return None


def _mesh(meta: etree._Element) -> list[str]:
    """Subject headings, where a publisher gives them as keywords."""
    groups = [
        group for group in meta.findall("kwd-group")
        if "mesh" in (group.get("kwd-group-type") or group.get("vocab") or "").lower()
    ]  # fmt: skip
    return [text for group in groups for word in group.iter("kwd") if (text := inline_text(word))]


def _links(related: list[etree._Element]) -> list[dict[str, Any]]:
    links = []
    for element in related:
        if kind := _REF_TYPES.get(element.get("related-article-type", "")):
            links.append({"type": kind, "pmid": _linked_pmid(element)})
    return links


def _linked_pmid(related: etree._Element) -> int | None:
    if related.get("ext-link-type") in ("pubmed", "pmid") and (
        match := _PUBMED.fullmatch((related.get(_HREF) or "")[:_LONGEST_ID])
    ):
        return whole_number(match[1])
    for element in related.iter("pub-id"):
        if element.get("pub-id-type") == "pmid":
            return whole_number(inline_text(element))
    return None


def _is_notice(kind: str, links: list[dict[str, Any]]) -> bool:
    if kind in _NOTICES:
        return True
    return kind in _VAGUE_TYPES and any(link["type"] in _OF_NOTICES for link in links)


def _is_retracted(kind: str, related: list[etree._Element], title: str) -> bool:
    if kind == "retracted-article":
        return True
    if kind in ("retraction", "partial-retraction"):
        return False
    links = {link.get("related-article-type") for link in related}
    if "retraction-forward" in links or _RETRACTED_TITLE.match(title):
        return True
    return "retracted-article" in links and kind not in _ABOUT_OTHERS
