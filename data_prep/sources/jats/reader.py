"""Full-text articles in JATS and the NLM DTDs before it, as PubMed Central and publishers give them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.documents import Document, Reject
from data_prep.errors import DataError
from data_prep.source_config import Jats
from data_prep.sources.jats.article import Article, Reading, read_article
from data_prep.sources.jats.stream import (
    TooLarge,
    is_lone_article,
    lone_article,
    read_up_to,
    stream_articles,
)
from data_prep.sources.xml_stream import BrokenXmlError, count_tags

MAX_ARTICLE_BYTES = 64_000_000  # of XML: lxml's tree takes 11 times that (measured)
_MANUSCRIPT_MARK = b"<?properties manuscript"


def read_articles(path: Path, name: str | None = None) -> Iterator[Document | Reject]:
    """Yield the articles of a JATS file (.xml, .nxml, .gz), several where a wrapper holds several.

    `name` is what ids and rejects call the file, its name unless given. The text is title,
    abstract, body and floating captions, a blank line between paragraphs and "# " before headings.
    A file of one article that is not well-formed gives a Reject; one of several raises DataError.
    """
    for article in extract_articles(path, name):
        yield article.document if isinstance(article, Article) else article


def extract_articles(
    path: Path,
    name: str | None = None,
    options: Jats | None = None,
    max_article_bytes: int = MAX_ARTICLE_BYTES,
    tally: Counter[str] | None = None,
) -> Iterator[Article | Reject]:
    """Like read_articles, with the measures of each article, the options and a tally of what was met.

    An article of more than `max_article_bytes` of XML gives a Reject, and lxml never builds its tree.
    """
    name = name or path.name
    reading = Reading(name, options or Jats(), Counter() if tally is None else tally)
    number = 0
    try:
        xml = read_up_to(path, max_article_bytes)
        if xml is None and is_lone_article(path):
            yield _too_large(name, max_article_bytes)
            return
    except BrokenXmlError:
        xml = None  # what is readable is streamed
    records = _records(path if xml is None else xml, reading, max_article_bytes)
    del xml  # of a large file the bytes go when the tree is there
    try:
        for record in records:
            number += 1
            yield record
    except BrokenXmlError as error:
        if number == 0 and count_tags(path, "article") <= 1:
            yield Reject(name, f"malformed XML: {error}")
            return
        raise DataError(
            f"{path}: broken at {error}; {number} whole articles stand before; fetch the file again"
        ) from error
    if number == 0:
        yield Reject(name, "no article: the file has no <article> element")


def article_document(
    xml: bytes,
    name: str,
    options: Jats,
    max_article_bytes: int,
    about: dict[str, Any] | None,
    tally: Counter[str],
) -> Article | Reject:
    """The first article in a file's bytes; `about` is PMC's metadata JSON on it (jats_about.merge_about).

    A broken or too large file, or one without an article, gives a Reject.
    """
    if len(xml) > max_article_bytes:
        return _too_large(name, max_article_bytes)
    reading = Reading(name, options, tally, about)
    try:
        record = next(_records(xml, reading, max_article_bytes), None)
    except BrokenXmlError as error:
        return Reject(name, f"malformed XML: {error}")
    return record or Reject(name, "no article: the file has no <article> element")


def _records(
    source: Path | bytes, reading: Reading, max_article_bytes: int
) -> Iterator[Article | Reject]:
    """The articles of a file, or of its bytes; BrokenXmlError after the last whole one."""
    if isinstance(source, bytes):
        article = lone_article(source, reading.options.citations == "tokens")
        if article is not None:
            has_mark = source.find(_MANUSCRIPT_MARK, 0, source.find(b"<body")) >= 0
            del source
            yield read_article(article, 1, replace(reading, has_manuscript_mark=has_mark))
            return
    articles = stream_articles(source, max_article_bytes)
    for number, found in enumerate(articles, start=1):
        if isinstance(found, TooLarge):
            yield _too_large(f"{reading.name}#{number}", max_article_bytes)
        else:
            yield read_article(found, number, reading)


def _too_large(place: str, max_article_bytes: int) -> Reject:
    return Reject(
        place,
        f"too large: more than {max_article_bytes} bytes of XML, which is the source's max_article_bytes",
    )
