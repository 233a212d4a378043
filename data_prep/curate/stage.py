"""The stage that keeps or drops every extracted document and splits what stays."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep.config import CorpusConfig
from data_prep.curate import identity
from data_prep.curate.filters import drop_reason, filter_settings, split_of
from data_prep.curate.index import INDEX
from data_prep.documents import Document, DocumentWriter, article_key, read_documents
from data_prep.errors import DataError
from data_prep.units import Stage, Unit, UnitResult, finished, source_of

DOCUMENTS = "documents.jsonl.zst"
SPLITS = ("train", "validation")
KEEP = identity.REASONS[identity.KEEP]
TITLE_CHARACTERS = 300  # in the list of what was dropped; enough to recognise an article by


class CurateStage(Stage):
    """A unit per extracted unit: train, validation and dropped as .jsonl.zst, each there even if empty.

    A unit's inputs are its documents and the decisions about them, so that a new update file brings
    up again exactly the units in which a record lost or won its place.
    """

    name = "curate"
    version = 1

    def __init__(self, config: CorpusConfig):
        self.directory = config.output / "curate"
        self.extracted = config.extracted
        self.identified = config.output / "identify"
        self.sources = frozenset(config.sources)
        self.filters = filter_settings(config.curate)
        self.settings = {**self.filters, "validation_fraction": config.curate.validation_fraction}

    def units(self) -> list[Unit]:
        results = [
            unit for unit in finished(self.extracted) if source_of(unit.name) in self.sources
        ]
        if not results:
            return []
        decisions = finished(self.identified)
        if not decisions:
            raise DataError(f"{self.identified}: no decisions yet; run the stage curate again")
        return [self._unit(unit, decisions[0]) for unit in results]

    def _unit(self, extracted: UnitResult, decisions: UnitResult) -> Unit:
        if decisions.record["inputs"].get(extracted.name) != extracted.files[INDEX]["sha256"]:
            raise DataError(
                f"{decisions.folder}: decided before {extracted.name} was extracted; "
                "run the stage curate again"
            )
        decided = identity.decisions_file(extracted.name)
        documents = extracted.files[DOCUMENTS]
        return Unit(
            extracted.name,
            inputs={
                "documents": documents["sha256"],
                "decisions": decisions.files[decided]["sha256"],
            },
            bytes=documents["bytes"],
            payload={
                "documents": str(extracted.folder / DOCUMENTS),
                "decisions": str(decisions.folder / decided),
            },
        )

    def run_unit(self, unit: Unit, folder: Path) -> dict[str, Any]:
        documents = Path(unit.payload["documents"])
        decisions = pq.read_table(unit.payload["decisions"])["reason"].to_pylist()
        counts = CurationCounts()
        with (
            DocumentWriter(folder / "train.jsonl.zst") as train,
            DocumentWriter(folder / "validation.jsonl.zst") as validation,
            DocumentWriter(folder / "dropped.jsonl.zst") as dropped,
        ):
            splits = {"train": train, "validation": validation}
            read = 0
            for read, document in enumerate(read_documents(documents), start=1):
                decision = decisions[read - 1] if read <= len(decisions) else KEEP
                reason = drop_reason(document, self.filters) if decision == KEEP else decision
                if reason:
                    dropped.write(
                        {"id": document["id"], "reason": reason, "title": _title(document)}
                    )
                    counts.drop(reason)
                else:
                    split = split_of(article_key(document), self.settings["validation_fraction"])
                    splits[split].write(document)
                    counts.keep(document, split)
        if read != len(decisions):
            raise DataError(
                f"{documents}: {read} documents, but its index has {len(decisions)}; "
                "extract the unit again"
            )
        return counts.as_json()


class CurationCounts:
    """Counts what was kept, by what the data card and the report show, and what was dropped."""

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self.kept: dict[str, dict[str, list[int]]] = {
            by: defaultdict(lambda: [0, 0])
            for by in ("split", "source", "year", "licence", "language")
        }
        self.lengths: Counter[int] = Counter()

    def drop(self, reason: str) -> None:
        self.dropped[reason] += 1

    def keep(self, document: Document, split: str) -> None:
        characters = len(document["text"])
        metadata = document["metadata"]
        values = {"split": split, "source": document["source"]}
        values |= {by: metadata[by] for by in ("year", "licence", "language")}
        for by, value in values.items():
            tally = self.kept[by]["unknown" if value is None else str(value)]
            tally[0] += 1
            tally[1] += characters
        self.lengths[1 << max(characters.bit_length() - 1, 0)] += 1

    def as_json(self) -> dict[str, Any]:
        """`kept_by` a property's value, documents and characters; `lengths` by powers of two.

        A length bin is named by its lowest length: "1024" counts 1,024 to 2,047 characters.
        """
        by = {
            name: {
                value: {"documents": documents, "characters": characters}
                for value, (documents, characters) in sorted(values.items())
            }
            for name, values in self.kept.items()
        }
        splits = {split: {"documents": 0, "characters": 0} for split in SPLITS} | by.pop("split")
        return {
            "documents": self.lengths.total() + self.dropped.total(),
            "kept": self.lengths.total(),
            "dropped": dict(sorted(self.dropped.items())),
            "splits": splits,
            "kept_by": by,
            "lengths": {str(low): number for low, number in sorted(self.lengths.items())},
        }


def _title(document: Document) -> str:
    return document["text"].partition("\n\n")[0][:TITLE_CHARACTERS]
