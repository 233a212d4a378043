"""Full-text articles in JATS and the NLM DTDs before it, as PubMed Central and publishers give them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import langcodes
from lxml import etree

from data_prep.documents import Document, Reject, empty_metadata
from data_prep.errors import DataError
from data_prep.sources.identifiers import (
    first_year,
    normalised_doi,
    normalised_pmcid,
    pmcid_version,
    whole_number,
)
from data_prep.sources.jats_text import RunningText
from data_prep.sources.licence import licence_code
from data_prep.sources.markup import inline_text
from data_prep.sources.mathml import local_name
from data_prep.sources.xml_stream import BrokenXmlError, count_tags, stream_elements

_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
# Abstracts beside the ordinary one: pictures, summaries for other readers, lists of highlights.
_OTHER_ABSTRACTS = re.compile(
    r"graphical|teaser|toc|summary|synopsis|key-?points|highlights|precis|patient|plain|lay|editor|video|"
    r"web|short|translated",
    re.IGNORECASE,
)
# Notices about another article: a link to a retracted article is what they are for.
_NOTICES = frozenset({
    "retraction", "partial-retraction", "correction", "addendum", "expression-of-concern", "reply",
    "editorial", "letter", "article-commentary", "discussion", "news", "republication",
})  # fmt: skip
_RETRACTED_TITLE = re.compile(r"\W*(?:RETRACTED\b|(?i:retracted(?:\s+(?:article|paper))?)\s*[:\]])")


@dataclass(frozen=True)
class Article:
    """A document and how much of its body it holds."""

    document: Document
    body_characters: int  # of the body's XML text, white space not counted
    kept_characters: int  # of the document's text that came from the body, white space not counted
    unknown_tags: dict[str, int] = field(default_factory=dict)


def read_articles(path: Path, name: str | None = None) -> Iterator[Document | Reject]:
    """Yield the articles of a JATS file (.xml, .nxml, .gz), several where a wrapper holds several.

    `name` is what ids and rejects call the file, its name unless given. The text is title,
    abstract, body and floating captions, a blank line between paragraphs and "# " before headings.
    A file of one article that is not well-formed gives a Reject; one of several raises DataError.
    """
    for article in extract_articles(path, name):
        yield article.document if isinstance(article, Article) else article


def extract_articles(path: Path, name: str | None = None) -> Iterator[Article | Reject]:
    """Like read_articles, with the measures of each article."""
    name = name or path.name
    number = 0
    try:
        for element in stream_elements(path, ["{*}article"]):
            number += 1
            yield _article(element, name, number)
    except BrokenXmlError as error:
        if number == 0 and count_tags(path, "article") <= 1:
            yield Reject(name, f"malformed XML: {error}")
            return
        raise DataError(
            f"{path}: broken at {error}; {number} whole articles stand before; fetch the file again"
        ) from error
    if number == 0:
        yield Reject(name, "no article: the file has no <article> element")


def _article(article: etree._Element, name: str, number: int) -> Article | Reject:
    for element in article.iter(etree.Element):
        if "}" in element.tag:
            element.tag = local_name(element)
    front = article.find("front")
    meta = article.find("front/article-meta")
    if front is None or meta is None:
        return Reject(f"{name}#{number}", "no article-meta: the article has no front matter")
    body, floats = RunningText(), RunningText()
    for element in article.findall("body"):
        body.add(element)
    for tag in ("floats-group", "floats-wrap"):
        for element in article.findall(tag):
            floats.add(element)
    title, abstract = _title(meta), _abstract(meta, article.get(_LANGUAGE))
    text = "\n\n".join(part for part in (title, abstract, str(body), str(floats)) if part)
    if not text:
        return Reject(f"{name}#{number}", "no text: neither title nor abstract nor body")
    metadata = _metadata(article, meta, title)
    metadata["sections"], metadata["abstract"] = body.sections, bool(abstract)
    if metadata["version"] is None:
        metadata["version"] = _version_in_path(name, metadata["pmcid"])
    identifier = _identifier(metadata) or f"text:{name}#{number}"
    document = Document(id=identifier, text=text, source="pmc", metadata=metadata)
    in_body = sum(
        _visible("".join(element.itertext(etree.Element))) for element in article.findall("body")
    )
    unknown = dict(sorted((body.unknown + floats.unknown).items()))
    return Article(document, in_body, _visible(str(body)), unknown)


def _visible(text: str) -> int:
    return sum(map(len, text.split()))


def _identifier(metadata: dict) -> str | None:
    for key in ("pmcid", "pmid", "doi"):
        if metadata[key]:
            return f"{key}:{metadata[key]}"
    return None


def _title(meta: etree._Element) -> str:
    parts = [
        inline_text(meta.find(f"title-group/{tag}"), _without_notes)
        for tag in ("article-title", "subtitle")
    ]
    return ": ".join(part for part in parts if part)


def _without_notes(child: etree._Element, pieces: list[str]) -> bool:
    """In titles, links and footnotes lead to notes about the title, not of it."""
    return local_name(child) in ("xref", "fn")


def _abstract(meta: etree._Element, language: str | None) -> str:
    """The first ordinary abstract, one line a paragraph or section: "Methods: text"."""
    ordinary = [
        abstract
        for abstract in meta.findall("abstract")
        if not _OTHER_ABSTRACTS.search(abstract.get("abstract-type", ""))
    ]
    # One marked as being in another language than the article is a translation.
    ordinary.sort(key=lambda abstract: abstract.get(_LANGUAGE, language) != language)
    if not ordinary:
        return ""
    lines = []
    for child in ordinary[0]:
        if local_name(child) in ("title", "label", ""):
            continue
        title = inline_text(child.find("title")) if child.tag == "sec" else ""
        part = RunningText()
        part.add(child)
        if part.blocks:
            lines.append(": ".join(filter(None, [title.rstrip(":."), " ".join(part.blocks)])))
    return "\n".join(lines)


def _metadata(article: etree._Element, meta: etree._Element, title: str) -> dict:
    metadata = empty_metadata()
    for element in meta.findall("article-id"):
        kind, value = element.get("pub-id-type"), inline_text(element)
        if kind in ("pmc", "pmcid", "pmcid-ver"):
            metadata["pmcid"] = metadata["pmcid"] or normalised_pmcid(value)
            metadata["version"] = metadata["version"] or pmcid_version(value)
        elif kind == "pmid":
            metadata["pmid"] = metadata["pmid"] or whole_number(value)
        elif kind == "doi":
            metadata["doi"] = metadata["doi"] or normalised_doi(value)
    kind = article.get("article-type")
    metadata["journal"] = _journal(article.find("front"))
    metadata["year"] = _year(meta)
    metadata["language"] = language_code(article.get(_LANGUAGE) or "en")
    metadata["publication_types"] = [kind] if kind else []
    metadata["licence"] = licence_code(meta)
    metadata["retracted"] = _is_retracted(kind or "", meta, title)
    return metadata


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


def language_code(tag: str) -> str | None:
    """ISO 639-2/B, as PubMed writes languages ("ger", not "deu"), of a BCP 47 tag; None if it is none."""
    try:
        return langcodes.Language.get(tag).to_alpha3(variant="B")
    except (LookupError, ValueError):
        return None


def _is_retracted(kind: str, meta: etree._Element, title: str) -> bool:
    if kind == "retracted-article":
        return True
    if kind in ("retraction", "partial-retraction"):
        return False
    links = {link.get("related-article-type") for link in meta.findall("related-article")}
    if "retraction-forward" in links or _RETRACTED_TITLE.match(title):
        return True
    return "retracted-article" in links and kind not in _NOTICES
