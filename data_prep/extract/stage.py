"""The stage that turns source files into documents."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.config import CorpusConfig
from data_prep.documents import DOCUMENTS, Deletion, Document, DocumentWriter, Reject
from data_prep.download.inventory import read_inventory
from data_prep.extract.counts import ExtractionCounts
from data_prep.extract.coverage import CoverageGate, check_coverage
from data_prep.extract.index import IndexWriter
from data_prep.extract.readers import read_records
from data_prep.extract.units import units_of
from data_prep.files import digest
from data_prep.run.collector import rare_collections
from data_prep.source_config import Source
from data_prep.sources.jats.reader import Article
from data_prep.units import Stage, Unit, source_of

# What of a source's settings makes its documents what they are.
SETTINGS = frozenset(
    ["format", "fields", "jats", "s2orc", "language", "licence", "max_article_bytes"]
)
# Records counted and indexed together, or fewer of BATCH_CHARACTERS: more gain no time, and leave the processor's cache.
BATCH = 256
BATCH_CHARACTERS = 1 << 22
MESSAGE_CHARACTERS = 1000  # of a reject's place and reason: both may quote the file


class ExtractStage(Stage):
    """A unit per PubMed or text file, or batch of JATS files: documents, rejects and an index.

    A unit's folder holds documents.jsonl.zst, rejects.jsonl.zst ({place, reason}) and index.parquet
    (index.INDEX_SCHEMA). A broken record is rejected; a broken file fails its unit, and so does
    one of PubMed's that has less in it than before (data_prep/extract/coverage.py).
    """

    name = "extract"
    version = 3

    def __init__(self, config: CorpusConfig):
        self.settings: dict[str, Any] = {}  # each source's are among its units' inputs
        self.directory = config.extracted
        self.shared = config.raw is not None
        self._config = config

    def units(self) -> list[Unit]:
        units: list[Unit] = []
        for name, source in self._config.sources.items():
            found = units_of(name, source, read_inventory(self._config, name))
            gate = CoverageGate(self.directory, name, source, [unit.name for unit in found])
            units += [_with_settings(unit, source, gate) for unit in found]
        return sorted(units, key=lambda unit: unit.name)

    @rare_collections()
    def run_unit(self, unit: Unit, folder: Path) -> dict[str, Any]:
        source = source_of(unit.name)
        counts = ExtractionCounts()
        with (
            DocumentWriter(folder / DOCUMENTS) as documents,
            DocumentWriter(folder / "rejects.jsonl.zst") as rejects,
            IndexWriter(folder / "index.parquet", unit.payload["order"]) as index,
        ):
            for part in _batches(_records(unit, counts)):
                if kept := [record for record in part if isinstance(record, dict)]:
                    for document in kept:
                        document["source"] = source
                    documents.write_all(kept)
                    counts.documents(kept, index.documents(kept))
                elif deleted := [record for record in part if isinstance(record, Deletion)]:
                    index.deletions(deleted)
                    counts.deletions(len(deleted))
                for record in part:
                    if isinstance(record, Reject):
                        rejects.write(_bounded(record))
                        counts.reject(record)
        found = counts.as_json()
        check_coverage(unit.name, found, unit.payload["coverage"])
        return found


def _with_settings(unit: Unit, source: Source, gate: CoverageGate) -> Unit:
    fields = source.model_dump(mode="json")
    settings = digest({name: fields[name] for name in SETTINGS})
    return replace(
        unit,
        inputs=unit.inputs | {"settings": settings},
        payload=unit.payload | {"source": fields, "coverage": gate.expected(unit.name)},
    )


def _records(unit: Unit, counts: ExtractionCounts) -> Iterator[Document | Deletion | Reject]:
    source = Source.model_validate(unit.payload["source"])
    for name, path in unit.payload["files"]:
        for record in read_records(Path(path), name, source, counts.met):
            if isinstance(record, Article):
                counts.article(record)
                yield record.document
            else:
                yield record


def _batches(
    records: Iterator[Document | Deletion | Reject],
) -> Iterator[list[Document | Deletion | Reject]]:
    """Consecutive records of one kind, as many as are dealt with together."""
    batch: list[Document | Deletion | Reject] = []
    kind: type | None = None
    characters = 0
    for record in records:
        if type(record) is not kind or len(batch) == BATCH or characters >= BATCH_CHARACTERS:
            if batch:
                yield batch
            batch, kind, characters = [], type(record), 0
        batch.append(record)
        if isinstance(record, dict):
            characters += len(record["text"])
    if batch:
        yield batch


def _bounded(record: Reject) -> dict[str, str]:
    return {
        "place": record.place[:MESSAGE_CHARACTERS],
        "reason": record.reason[:MESSAGE_CHARACTERS],
    }
