"""The reader of each format: a file in, documents, deletions and rejects out."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data_prep.documents import Deletion, Document, Reject
from data_prep.source_config import Source
from data_prep.sources.archive import is_archive, read_archive
from data_prep.sources.compressed import is_twice_compressed, refuse_twice_compressed
from data_prep.sources.html import read_pages
from data_prep.sources.jats.reader import Article, extract_articles
from data_prep.sources.language import fill_language
from data_prep.sources.licence import CUSTOM, named_licence
from data_prep.sources.pmc_parts import read_part
from data_prep.sources.pubmed.reader import read_citations
from data_prep.sources.s2orc.reader import read_papers
from data_prep.sources.tables import read_csv, read_parquet
from data_prep.sources.text import read_texts

Record = Article | Document | Deletion | Reject


def read_records(path: Path, name: str, source: Source, tally: Counter[str]) -> Iterator[Record]:
    """The records of a source's file, in its order; what a document does not state is the source's.

    `name` is the file's path below the source's folder, for ids and messages. `tally` counts what
    was met on the way ("books", "medline dates"). Raises DataError where the file is broken, after the records before.
    """
    records = _of_format(path, name, source, tally)
    return _completed(records, source) if source.language or source.licence else records


def _completed(records: Iterator[Record], source: Source) -> Iterator[Record]:
    for record in records:
        document = record.document if isinstance(record, Article) else record
        if isinstance(document, dict):
            fill_language(document, source)
            if document["metadata"]["licence"] is None and source.licence:
                document["metadata"]["licence"] = _licence(source.licence)
        yield record


def _licence(named: str) -> str:
    """The code of a licence as documents have it; the name itself where it is none that is known."""
    code = named_licence(named)
    return named if code in (None, CUSTOM) else code


def _of_format(path: Path, name: str, source: Source, tally: Counter[str]) -> Iterator[Record]:
    if source.format == "jats" and not is_archive(name) and is_twice_compressed(path):
        yield Reject(name, "compressed twice: unpack it once")  # one of hundreds in its unit
        return
    refuse_twice_compressed(path)
    match source.format:
        case "pubmed":
            yield from read_citations(path, tally)
        case "jats":
            if is_archive(name):
                yield from read_archive(path, name, source, tally)
            else:
                limit = source.max_article_bytes
                yield from extract_articles(path, name, source.jats, limit, tally)
        case "pmc":
            yield from read_part(path, name, source, tally)
        case "text":
            yield from read_texts(path, name, source.fields, tally, source.max_article_bytes)
        case "s2orc":
            yield from read_papers(path, name, source, tally)
        case "html":
            yield from read_pages(path, name, source)
        case "parquet":
            yield from read_parquet(path, name, source, tally)
        case "csv":
            yield from read_csv(path, name, source, tally)
