"""The stage that turns source files into documents."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.config import CorpusConfig
from data_prep.documents import Deletion, Document, DocumentWriter, Reject
from data_prep.sources.extract_index import IndexWriter
from data_prep.sources.extract_units import units_of
from data_prep.sources.inventory import read_inventory
from data_prep.sources.jats import Article, extract_articles
from data_prep.sources.pubmed import read_citations
from data_prep.sources.text import read_texts
from data_prep.units import Stage, Unit

_PERCENTILES = (0, 1, 10, 50, 90)  # a bad extraction shows at the low end


class ExtractStage(Stage):
    """A unit per PubMed or text file, or batch of JATS files: documents, rejects and an index.

    A unit's folder holds documents.jsonl.zst, rejects.jsonl.zst ({place, reason}) and index.parquet
    (extract_index.INDEX_SCHEMA). A broken record is rejected, a broken file fails its unit.
    """

    name = "extract"
    version = 1

    def __init__(self, config: CorpusConfig):
        self.settings: dict[str, Any] = {}  # the files alone determine the documents
        self.directory = config.extracted
        self._config = config

    def units(self) -> list[Unit]:
        units = [
            unit
            for source, about in self._config.sources.items()
            for unit in units_of(source, about.format, read_inventory(self._config, source))
        ]
        return sorted(units, key=lambda unit: unit.name)

    def run_unit(self, unit: Unit, folder: Path) -> dict[str, Any]:
        source = unit.name.partition("/")[0]
        counts = ExtractionCounts()
        with (
            DocumentWriter(folder / "documents.jsonl.zst") as documents,
            DocumentWriter(folder / "rejects.jsonl.zst") as rejects,
            IndexWriter(folder / "index.parquet", unit.payload["order"]) as index,
        ):
            for record in _records(unit):
                counts.add(record)
                if isinstance(record, Reject):
                    rejects.write({"place": record.place, "reason": record.reason})
                elif isinstance(record, Deletion):
                    index.deletion(record)
                else:
                    document = record.document if isinstance(record, Article) else record
                    document["source"] = source
                    documents.write(document)
                    index.document(document)
        return counts.as_json()


def _records(unit: Unit) -> Iterator[Article | Document | Deletion | Reject]:
    for name, path in unit.payload["files"]:
        match unit.payload["format"]:
            case "pubmed":
                yield from read_citations(Path(path))
            case "jats":
                yield from extract_articles(Path(path), name)
            case "text":
                yield from read_texts(Path(path), name)


class ExtractionCounts:
    """What a unit's extraction gave, for the report and for gates on its quality."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(
            ("documents", "deletions", "rejects", "with_abstract", "retracted", "characters"), 0
        )
        self._languages: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._unknown_tags: Counter[str] = Counter()
        self._kept: list[int] = []
        self._in_body: list[int] = []

    def add(self, record: Article | Document | Deletion | Reject) -> None:
        if isinstance(record, Reject):
            self._counts["rejects"] += 1
            self._reasons[record.reason.partition(":")[0]] += 1
        elif isinstance(record, Deletion):
            self._counts["deletions"] += 1
        elif isinstance(record, Article):
            self._unknown_tags.update(record.unknown_tags)
            if record.body_characters:
                self._kept.append(record.kept_characters)
                self._in_body.append(record.body_characters)
            self._add_document(record.document)
        else:
            self._add_document(record)

    def _add_document(self, document: Document) -> None:
        self._counts["documents"] += 1
        self._counts["with_abstract"] += document["metadata"]["abstract"]
        self._counts["retracted"] += document["metadata"]["retracted"]
        self._counts["characters"] += len(document["text"])
        self._languages[document["metadata"]["language"] or "unknown"] += 1

    def as_json(self) -> dict[str, Any]:
        """Totals; `body` (full texts only): characters kept of the XML's, and that share's percentiles."""
        counts: dict[str, Any] = self._counts | {
            "languages": dict(sorted(self._languages.items())),
            "reject_reasons": dict(sorted(self._reasons.items())),
        }
        if self._in_body:
            shares = np.asarray(self._kept) / np.asarray(self._in_body)
            percentiles = np.percentile(shares, _PERCENTILES).round(4).tolist()
            counts["body"] = {
                "articles": len(shares),
                "characters": sum(self._in_body),
                "kept": sum(self._kept),
                "share_percentiles": dict(zip(map(str, _PERCENTILES), percentiles, strict=True)),
            }
            counts["unknown_tags"] = dict(sorted(self._unknown_tags.items()))
        return counts
