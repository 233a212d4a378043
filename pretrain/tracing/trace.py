"""From a step of a run to the documents in its batch, and from a document to its steps.

The answers come from what fixes the order: RUN/config.yaml, RUN/ledger.jsonl and the shard sets. Steps are
numbered as in metrics.jsonl, from 1; what the ledger calls step s lies between step s and step s + 1.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.config_file import load_config
from data_prep.errors import ConfigError
from data_prep.shards.manifest import DOCUMENTS_FILE
from data_prep.shards.reader import ID, LENGTH, OFFSET, ShardSet
from pretrain.config import RunConfig
from pretrain.ledger import read_ledger
from pretrain.order.order import Order
from pretrain.plan import open_training_sets, order_of, steps_of
from pretrain.run_folder import read_status

ARTICLE = ("pmid", "pmcid", "licence")
DIGITS = 18  # of a number that always fits an int64


@dataclass(frozen=True)
class Piece:
    """A document's tokens in a row: `length` of them from token `offset` of the document on."""

    id: str
    offset: int
    length: int
    pmid: int | None
    pmcid: str | None
    licence: str | None


@dataclass(frozen=True)
class TracedRow:
    """A row of a batch, and the documents in it; `left_out` says why the batch goes without it."""

    source: str
    file: str
    row_group: int  # in the file
    row: int  # in the row group
    epoch: int  # times that the source was read before
    documents: list[Piece]
    left_out: str | None = None


@dataclass(frozen=True)
class Turn:
    """One of a row's turns; `step` of a skipped one is the last before the skip."""

    step: int
    epoch: int


@dataclass
class DocumentRow:
    """A row that holds a part of a document, and when a run reads it.

    Its turns are in steps done (`seen`), in steps not yet done (`to_come`), skipped by the ledger, or in
    steps whose batch goes without it because its row group is bad (`left_out`).
    """

    document: str
    source: str
    file: str
    row_group: int
    row: int
    pmid: int | None
    pmcid: str | None
    licence: str | None
    seen: list[Turn] = field(default_factory=list)
    to_come: list[Turn] = field(default_factory=list)
    skipped: list[Turn] = field(default_factory=list)
    left_out: list[Turn] = field(default_factory=list)


class Trace:
    """A run's order over its shard sets. Raises ConfigError or DataError where the folder is no run."""

    def __init__(self, run: Path):
        if not (run / "config.yaml").exists():
            raise ConfigError(f"run: {run} holds no config.yaml; give the folder of a training run")
        config = load_config(RunConfig, run / "config.yaml")
        self.ledger = read_ledger(run)
        self.done = int(read_status(run).get("step", 0))
        self.sets = open_training_sets(config)
        self.order = order_of(config, self.sets, self.ledger)
        self.steps = steps_of(config, self.sets, self.order)

    def step(self, number: int) -> list[TracedRow]:
        """The rows of a step's batch, in order. Raises ConfigError for a step that the run does not have."""
        if not 1 <= number <= self.steps:
            raise ConfigError(f"step: {number} is none of the run's steps, 1 to {self.steps:,}")
        return batch_rows(self.order, self.sets, number)

    def document(self, name: str) -> list[DocumentRow]:
        """The rows that hold a document, in all sources, with their turns up to the run's last step.

        A pmid or pmcid finds every document of the article, its abstract and its full text. Raises
        ConfigError where no set has one.
        """
        found: list[DocumentRow] = []
        for source, (of, shards) in enumerate(self.sets.items()):
            stops = np.cumsum(shards.row_groups)
            for listed in shards.listed(_named(name), ["id", "rows", *ARTICLE]).to_pylist():
                for number in listed["rows"]:
                    group = int(np.searchsorted(stops, number, side="right"))
                    row = number - int(stops[group] - shards.row_groups[group])
                    file, in_file = shards.place(group)
                    article = {key: listed[key] for key in ARTICLE}
                    part = DocumentRow(listed["id"], of, str(file), in_file, row, **article)
                    self._add_turns(part, source, group)
                    found.append(part)
        if not found:
            raise ConfigError(
                f"document: {name} is in none of the run's training sets ({', '.join(self.sets)}); ids are "
                f"those of their {DOCUMENTS_FILE}, such as {self._example()}"
            )
        return found

    def _add_turns(self, part: DocumentRow, source: int, group: int) -> None:
        for visit in self.order.visits(source, group, part.row, self.steps):
            if visit.skipped:
                part.skipped.append(Turn(visit.step, visit.epoch))
                continue
            if self.order.is_bad(source, group, visit.step):
                turns = part.left_out
            else:
                turns = part.seen if visit.step < self.done else part.to_come
            turns.append(Turn(visit.step + 1, visit.epoch))

    def _example(self) -> str:
        shards = next(iter(self.sets.values()))
        return shards.document_ids(0)[0][0]


def batch_rows(order: Order, sets: Mapping[str, ShardSet], number: int) -> list[TracedRow]:
    """The rows of step `number` of an order over its sets."""
    rows = order.batch(number - 1)
    found: list[TracedRow] = []
    unknown = dict.fromkeys(ARTICLE)
    for source, (name, shards) in enumerate(sets.items()):
        of = np.flatnonzero(rows.source == source)
        usable = of[rows.usable[of]].tolist()
        pieces = {group: _pieces(shards, group) for group in np.unique(rows.group[usable]).tolist()}
        articles = _articles(
            shards,
            {
                piece["id"]
                for place in usable
                for piece in pieces[int(rows.group[place])][int(rows.row[place])]
            },
        )
        for place in of.tolist():
            group, row = int(rows.group[place]), int(rows.row[place])
            file, in_file = shards.place(group)
            documents, left_out = [], None
            if rows.usable[place]:
                documents = [
                    Piece(**piece | unknown | articles.get(piece["id"], {}))
                    for piece in pieces[group][row]
                ]
            else:
                left_out = _reason(order, name, group)
            epoch = int(rows.epoch[place])
            found.append(TracedRow(name, str(file), in_file, row, epoch, documents, left_out))
    return found


def _reason(order: Order, source: str, group: int) -> str:
    """Why the ledger leaves a row group out."""
    return next(
        entry.reason
        for entry in order.bad_row_groups
        if (entry.source, entry.group) == (source, group)
    )


def _pieces(shards: ShardSet, group: int) -> list[list[dict[str, Any]]]:
    """For each row of the row group its pieces: id, offset, length."""
    return shards.table(group, [ID, OFFSET, LENGTH])["documents"].to_pylist()


def _articles(shards: ShardSet, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The article of each document: pmid, pmcid, licence."""
    condition = pc.field("id").isin(pa.array(sorted(ids), pa.string()))
    found = shards.listed(condition, ["id", *ARTICLE]).to_pylist()
    return {listed.pop("id"): listed for listed in found}


def _named(document: str) -> pc.Expression:
    """Which lines of documents.parquet are meant by an id."""
    condition = pc.field("id") == document
    kind, _, value = document.partition(":")
    if kind == "pmid" and value.isdecimal() and len(value) <= DIGITS:
        condition |= pc.field("pmid") == int(value)
    if kind == "pmcid":
        condition |= pc.field("pmcid") == value
    return condition
