"""The stage that drops documents which share a run of words with a benchmark's question.

It comes after identify and near_duplicates, and before curate. A benchmark made of articles (PubMedQA's
contexts are abstracts) finds these articles by their words, whatever id they bear.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.config import CorpusConfig
from data_prep.curate.benchmarks import Question, benchmark_settings, read_benchmark
from data_prep.curate.decisions import KEEP, read_decisions, write_decisions
from data_prep.curate.overlap import Match, Overlap
from data_prep.curate.steps import Reduces
from data_prep.curate.words import in_batches
from data_prep.documents import DOCUMENTS, Document, read_documents
from data_prep.errors import DataError
from data_prep.files import digest
from data_prep.units import Stage, Unit, finished, source_of

DECISIONS = "decisions.parquet"
MATCHES = "matches.parquet"
REASONS = (KEEP, "contaminated")
MATCH_SCHEMA = pa.schema(
    [
        ("document", pa.string()),  # its id
        ("benchmark", pa.string()),
        ("question", pa.string()),  # its key
        ("runs", pa.int64()),  # that they share
        ("length", pa.int64()),  # words of the longest stretch that they share
        ("words", pa.string()),  # its beginning, normalised
    ]
)
_SHOWN_CHARACTERS = 300  # of a shared stretch
_COMMONEST = 10  # shared stretches in a report
_LONGEST = 10  # matches in a report


class DecontaminateStage(Stage):
    """A unit per extracted unit: decisions.parquet (see decisions.py) and matches.parquet (MATCH_SCHEMA).

    Only documents that the steps before keep are looked at. Each unit reads the benchmarks itself: 0.2 s for
    a million words.
    """

    name = "decontaminate"
    version = 1

    def __init__(self, config: CorpusConfig):
        """Raises ConfigError where a benchmark's file is not there."""
        about = config.curate.decontaminate
        self.directory = config.output / "decontaminate"
        self.extracted = config.extracted
        self.sources = frozenset(config.sources)
        self.before = [config.output / "identify"]
        if config.curate.near_duplicates:
            self.before.append(config.output / "near_duplicates")
        self.benchmarks = about.benchmarks if about else []
        self.settings = {
            "words": about.words if about else 0,
            "benchmarks": benchmark_settings(self.benchmarks),
        }

    def units(self) -> list[Unit]:
        """Raises ConfigError or DataError where a benchmark cannot be read."""
        self.questions()
        results = [
            unit for unit in finished(self.extracted) if source_of(unit.name) in self.sources
        ]
        if not results:
            return []
        reduces = Reduces(self.before)
        units = []
        for result in results:
            decisions = reduces.decisions(result.name)
            about = result.files[DOCUMENTS]
            units.append(
                Unit(
                    result.name,
                    inputs={
                        "documents": about["sha256"],
                        "decisions": digest([file.sha256 for file in decisions]),
                    },
                    bytes=about["bytes"],
                    payload={
                        "documents": str(result.folder / DOCUMENTS),
                        "decisions": [str(file.path) for file in decisions],
                    },
                )
            )
        return units

    def questions(self) -> list[Question]:
        """Those of all benchmarks, in order."""
        return [question for one in self.benchmarks for question in read_benchmark(one)]

    def run_unit(self, unit: Unit, folder: Path) -> dict[str, Any]:
        if benchmark_settings(self.benchmarks) != self.settings["benchmarks"]:
            raise DataError(
                "a benchmark's file changed since the stage began; run the stage curate again"
            )
        questions = self.questions()
        overlap = Overlap(questions, self.settings["words"])
        stays = read_decisions([Path(path) for path in unit.payload["decisions"]]) == KEEP
        rows = np.flatnonzero(stays)
        codes = np.zeros(len(stays), dtype=np.uint8)
        found: list[dict[str, Any]] = []
        checked = 0
        for batch in in_batches(_those_that_stay(Path(unit.payload["documents"]), stays)):
            for match in overlap.matches([document["text"] for document in batch]):
                codes[rows[checked + match.document]] = 1
                found.append(_row(match, batch, questions))
            checked += len(batch)
        write_decisions(folder / DECISIONS, codes, REASONS)
        pq.write_table(
            pa.Table.from_pylist(found, MATCH_SCHEMA), folder / MATCHES, compression="zstd"
        )
        pairs = {(row["benchmark"], row["document"]) for row in found}
        by_benchmark = Counter(benchmark for benchmark, _ in pairs)
        return {
            "checked": checked,
            "contaminated": int(codes.sum()),
            "contaminated_by": {one.name: by_benchmark[one.name] for one in self.benchmarks},
        }


def _those_that_stay(path: Path, stays: np.ndarray) -> Iterator[Document]:
    number = 0
    for number, document in enumerate(read_documents(path), start=1):
        if number <= len(stays) and stays[number - 1]:
            yield document
    if number != len(stays):
        raise DataError(
            f"{path}: {number} documents, but {len(stays)} were decided on; extract the unit again"
        )


def _row(match: Match, batch: list[Document], questions: list[Question]) -> dict[str, Any]:
    question = questions[match.question]
    return {
        "document": batch[match.document]["id"],
        "benchmark": question.benchmark,
        "question": question.key,
        "runs": match.runs,
        "length": match.length,
        "words": match.words[:_SHOWN_CHARACTERS],
    }


@dataclass(frozen=True)
class Contamination:
    """What the corpus shared with a benchmark; the documents are dropped."""

    benchmark: str
    questions: int
    too_short: int
    """Questions without a text of 8 words or more: they could not be looked for."""
    matched: int
    """Questions that some document shares a run with."""
    documents: int
    commonest: list[tuple[str, int]]
    """Shared stretches that several documents have, and how many: phrases that any article may use show here."""
    longest: list[tuple[str, str]]
    """Documents and questions that share the longest stretches; matches.parquet of each unit has all."""


def contamination(config: CorpusConfig) -> list[dict[str, Any]]:
    """A `Contamination` (as a dict) for each benchmark of a finished stage: what the corpus card shows."""
    stage = DecontaminateStage(config)
    paths = [result.folder / MATCHES for result in finished(stage.directory)]
    tables = [pq.read_table(path) for path in paths] or [MATCH_SCHEMA.empty_table()]
    matches = pa.concat_tables(tables)
    reports = []
    for benchmark in stage.benchmarks:
        questions = read_benchmark(benchmark)
        checked = int(Overlap(questions, stage.settings["words"]).checked.sum())
        mine = matches.filter(pc.equal(matches["benchmark"], benchmark.name))
        phrases = mine.group_by("words").aggregate([("document", "count_distinct")])
        phrases = phrases.filter(pc.field("document_count_distinct") > 1)
        order = [("document_count_distinct", "descending"), ("words", "ascending")]
        commonest = phrases.sort_by(order).select(["words", "document_count_distinct"])
        report = Contamination(
            benchmark.name,
            len(questions),
            len(questions) - checked,
            len(mine["question"].unique()),
            len(mine["document"].unique()),
            [
                (row["words"], row["document_count_distinct"])
                for row in commonest.slice(0, _COMMONEST).to_pylist()
            ],
            _longest(mine),
        )
        reports.append(asdict(report))
    return reports


def _longest(matches: pa.Table) -> list[tuple[str, str]]:
    order = [("length", "descending"), ("document", "ascending"), ("question", "ascending")]
    rows = matches.sort_by(order).slice(0, _LONGEST).to_pylist()
    # A document of two sources is found in both.
    return list(dict.fromkeys((row["document"], row["question"]) for row in rows))
