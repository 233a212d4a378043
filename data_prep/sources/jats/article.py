"""One <article> element to a document."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from lxml import etree

from data_prep.documents import Document, Reject
from data_prep.source_config import Jats
from data_prep.sources.jats.about import merge_about
from data_prep.sources.jats.inline import FLAT, InlineState, nothing
from data_prep.sources.jats.metadata import (
    LANGUAGE,
    article_metadata,
    custom_properties,
    identifier_of,
    is_machine_read,
    is_manuscript,
)
from data_prep.sources.jats.references import References
from data_prep.sources.jats.text import RunningText
from data_prep.sources.licence import CUSTOM, named_licence
from data_prep.sources.markup import Markup, inline_text, raw_text
from data_prep.sources.mathml import local_name

# Abstracts beside the ordinary one: pictures, summaries for other readers, lists of highlights.
_OTHER_ABSTRACTS = re.compile(
    r"graphical|teaser|toc|summary|synopsis|key-?points|highlights|precis|patient|plain|lay|editor|video|"
    r"web|short|translated",
    re.IGNORECASE,
)
# What stands beside an article in its file, by JATS's and JATS4R's names; others are counted as "other".
_SUB_ARTICLES = frozenset({
    "abstract", "addendum", "aggregated-review-documents", "author-comment", "case-report", "correction",
    "decision-letter", "discussion", "editor-report", "letter", "peer-review", "referee-report", "reply",
    "reviewer-report", "translation",
})  # fmt: skip
# Footnotes on who paid, by JATS's values of @fn-type.
_FUNDING_NOTES = ("financial-disclosure", "supported-by")
# In titles, links and footnotes lead to notes about the title, not of it.
_TITLE = Markup({**FLAT, "xref": nothing, "fn": nothing})


@dataclass(frozen=True)
class Article:
    """A document and how much of its body it holds."""

    document: Document
    body_characters: int  # of the body's XML text, white space not counted
    kept_characters: int  # of the document's text that came from the body, white space not counted
    unknown_tags: dict[str, int] = field(default_factory=dict)  # not in jats_tags; content kept


@dataclass(frozen=True)
class Reading:
    """What is the same for all articles of a file."""

    name: str  # of the file
    options: Jats
    tally: Counter[str]
    about: dict[str, Any] | None = None  # PMC's metadata JSON
    has_manuscript_mark: bool = False


def read_article(article: etree._Element, number: int, reading: Reading) -> Article | Reject:
    """The document of an article, the `number`-th of its file; its tags have no namespaces."""
    place = f"{reading.name}#{number}"
    meta = article.find("front/article-meta")
    if meta is None:
        return Reject(place, "no article-meta: the article has no front matter")
    references = References(article)
    title = _title(meta, InlineState(reading.options))
    abstract = _abstract(meta, article.get(LANGUAGE), reading.options)
    body, rest = (RunningText(reading.options, references) for _ in range(2))
    for element in article.findall("body"):
        body.add(element)
    _add_rest(rest, article, meta, reading.options)
    body_text = str(body)
    text = "\n\n".join(part for part in (title, abstract, body_text, str(rest)) if part)
    if not text:
        return Reject(place, "no text: neither title nor abstract nor body")
    metadata = article_metadata(article, meta, title, reading.name)
    metadata["sections"], metadata["abstract"] = body.sections + rest.sections, bool(abstract)
    metadata["kind"] = "full_text" if body_text else "citation"
    _add_properties(metadata, article, meta, reading)
    unknown = dict(sorted((body.unknown + rest.unknown).items()))
    _count(article, metadata, reading.tally)
    return Article(
        Document(
            id=identifier_of(metadata) or f"text:{place}",
            text=text,
            source="pmc",
            metadata=metadata,
        ),
        sum(map(_body_characters, article.findall("body"))),
        _visible(body_text.encode()),
        unknown,
    )


def _add_rest(
    rest: RunningText, article: etree._Element, meta: etree._Element, options: Jats
) -> None:
    """What of the text stands after the body: appendices, floating captions, and what the config asks for."""
    back = article.find("back")
    if back is not None:
        for tag in ("app-group", "app", "glossary"):
            for element in back.findall(tag):
                rest.add_child(element)
        for element in back.findall("ack"):
            rest.add_child(element)
    for tag in ("floats-group", "floats-wrap"):
        for element in article.findall(tag):
            rest.add(element)
    if options.funding:
        notes = [
            note
            for note in article.iterfind("back/fn-group/fn")
            if note.get("fn-type") in _FUNDING_NOTES
        ]
        rest.add_section("Funding", [*meta.iterfind("funding-group/funding-statement"), *notes])


def _add_properties(
    metadata: dict[str, Any], article: etree._Element, meta: etree._Element, reading: Reading
) -> None:
    """What PMC knows of an article, from the XML it serves and from its list."""
    properties = custom_properties(meta)
    metadata["manuscript"] = is_manuscript(meta, properties, reading.has_manuscript_mark)
    body = article.find("body") if metadata["kind"] == "full_text" else None
    metadata["ocr"] = is_machine_read(body, properties)
    if metadata["licence"] in (None, CUSTOM):
        named = named_licence(properties.get("pmc-license-ref", ""))
        metadata["licence"] = named or metadata["licence"]
    if reading.about:
        merge_about(metadata, reading.about, reading.tally)


def _count(article: etree._Element, metadata: dict[str, Any], tally: Counter[str]) -> None:
    for name, key in (("manuscripts", "manuscript"), ("ocr articles", "ocr")):
        if metadata[key]:
            tally[name] += 1
    for element in article.iterfind("sub-article"):
        kind = element.get("article-type")
        tally[f"sub-article {kind if kind in _SUB_ARTICLES else 'other'}"] += 1
    for element in article.iterfind("response"):
        kind = element.get("response-type")
        tally[f"response {kind if kind in _SUB_ARTICLES else 'other'}"] += 1


def _body_characters(body: etree._Element) -> int:
    # Child by child: the text of all of a large body would be there several times over.
    texts = (etree.tostring(child, method="text", encoding="utf-8") for child in body)
    return sum(map(_visible, texts)) + _visible((body.text or "").encode())


def _visible(text: bytes) -> int:
    """Characters of a text in UTF-8 but for white space; several times as fast as counting in a string."""
    codes = np.frombuffer(text, np.uint8)
    continued = codes.view(np.int8) < -64  # 0x80 to 0xBF: all bytes of a character but the first
    return int(np.count_nonzero(codes > ord(" ")) - np.count_nonzero(continued))


def _title(meta: etree._Element, state: InlineState) -> str:
    titles = (meta.find(f"title-group/{tag}") for tag in ("article-title", "subtitle"))
    texts = (state.clean(raw_text(title, _TITLE, state)) for title in titles if title is not None)
    return ": ".join(text for text in texts if text)


def _abstract(meta: etree._Element, language: str | None, options: Jats) -> str:
    """The first ordinary abstract, one line a paragraph or section: "Methods: text"."""
    ordinary = [
        abstract
        for abstract in meta.findall("abstract")
        if not _OTHER_ABSTRACTS.search(abstract.get("abstract-type", ""))
    ]
    # One marked as being in another language than the article is a translation.
    ordinary.sort(key=lambda abstract: abstract.get(LANGUAGE, language) != language)
    if not ordinary:
        return ""
    lines = []
    for child in ordinary[0]:
        if local_name(child) in ("title", "label", ""):
            continue
        title = inline_text(child.find("title")) if child.tag == "sec" else ""
        part = RunningText(options)
        part.add(child)
        if part.blocks:
            lines.append(": ".join(filter(None, [title.rstrip(":."), " ".join(part.blocks)])))
    return "\n".join(lines)
