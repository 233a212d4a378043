"""The reader of each format: a file in, documents, deletions and rejects out."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data_prep.documents import Deletion, Document, Reject
from data_prep.source_config import Source
from data_prep.sources.jats import Article, extract_articles
from data_prep.sources.pubmed import read_citations
from data_prep.sources.text import read_texts

Record = Article | Document | Deletion | Reject


def read_records(path: Path, name: str, source: Source, tally: Counter[str]) -> Iterator[Record]:
    """The records of a source's file, in its order.

    `name` is the file's path below the source's folder, for ids and messages. `tally` counts what
    was met on the way ("books", "medline dates"). Raises DataError where the file is broken, after the records before.
    """
    match source.format:
        case "pubmed":
            yield from read_citations(path)
        case "jats":
            yield from extract_articles(path, name)
        case "text":
            yield from read_texts(path, name)
