"""The stage that carries out what the steps of curation decided, and splits what stays."""

from __future__ import annotations

from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.config import CorpusConfig
from data_prep.curate import counts
from data_prep.curate.decisions import KEEP, read_decisions
from data_prep.curate.filters import split_of
from data_prep.curate.index import INDEX
from data_prep.curate.near_duplicates import NEAR_DUPLICATE
from data_prep.curate.since import KEPT
from data_prep.curate.steps import DecisionsFile, Reduces
from data_prep.documents import DOCUMENTS, Document, DocumentWriter, read_raw_lines
from data_prep.errors import DataError
from data_prep.extract.index import content_hashes
from data_prep.run.collector import rare_collections
from data_prep.units import Stage, Unit, UnitResult, finished, source_of

DECISIONS = "decisions.parquet"
SPLITS = ("train", "validation")
TITLE_CHARACTERS = 300  # in the list of what was dropped; enough to recognise an article by

# Where a document goes: the place of its split in SPLITS, or
_DROPPED = len(SPLITS)

_KEYS = ("pmid", "doi", "pmcid")  # the first that is known is the article's, else its id
_COLUMNS = ["kind", "id", *_KEYS, "text_hash", *counts.COLUMNS]


class CurateStage(Stage):
    """A unit per extracted unit: train, validation and dropped as .jsonl.zst, each there even if empty.

    The lines of train and validation are those of the extracted documents, byte for byte; dropped has
    id, reason and title. kept.parquet lists what a corpus to come need not see again, what stays and the
    near-duplicates of it: id_hash and text_hash (int64, see data_prep.extract.index.content_hash). A unit's inputs are its documents and every step's decisions about them, so
    that a new update file brings up again exactly the units in which a record lost or won its place.
    Memory: a row of the index for each document of the unit, and some megabytes of lines.
    """

    name = "curate"
    version = 3

    def __init__(self, config: CorpusConfig):
        self.directory = config.output / "curate"
        self.extracted = config.extracted
        self.identified = config.output / "identify"
        self.sources = frozenset(config.sources)
        # Of several steps that drop a document the first says why.
        self.reduces = [self.identified]
        if config.curate.near_duplicates:
            self.reduces.append(config.output / "near_duplicates")
        self.decontaminated = (
            config.output / "decontaminate" if config.curate.decontaminate else None
        )
        self.settings = {"validation_fraction": config.curate.validation_fraction}

    def units(self) -> list[Unit]:
        """A unit for each extracted one; those on which the step decontaminate failed are left out."""
        extracted = [
            unit for unit in finished(self.extracted) if source_of(unit.name) in self.sources
        ]
        if not extracted:
            return []
        reduces = Reduces(self.reduces)
        (identified,) = finished(self.identified)
        searched = _decontaminated(self.decontaminated) if self.decontaminated else None
        units = []
        for unit in extracted:
            if identified.record["inputs"].get(unit.name) != unit.files[INDEX]["sha256"]:
                raise DataError(
                    f"{identified.folder}: decided before {unit.name} was extracted; "
                    "run the stage curate again"
                )
            decisions = reduces.decisions(unit.name)
            if searched is not None:
                if unit.name not in searched:
                    continue
                decisions.append(searched[unit.name])
            units.append(_unit(unit, decisions))
        return units

    @rare_collections()
    def run_unit(self, unit: Unit, folder: Path) -> dict[str, Any]:
        documents = Path(unit.payload["documents"])
        reasons = read_decisions([Path(path) for path in unit.payload["decisions"]])
        index = _index_of(Path(unit.payload["index"]))
        if len(index) != len(reasons):
            raise _differs(documents, len(index), len(reasons))
        keeps = np.asarray(reasons == KEEP, dtype=bool)
        kept, dropped = index.filter(pa.array(keeps)), index["id"].filter(pa.array(~keeps))
        split = _splits(kept, self.settings["validation_fraction"])
        goes = np.full(len(reasons), _DROPPED, np.int8)
        goes[keeps] = split
        titles = _deal(documents, goes, reasons, folder)
        seen = pa.array(keeps | (reasons == NEAR_DUPLICATE))
        _write_seen(index.filter(seen), folder / KEPT)
        ids, why = dropped.to_pylist(), reasons[~keeps]
        return {
            "documents": len(reasons),
            **counts.of_kept(kept, split, SPLITS, source_of(unit.name)),
            "dropped": counts.of_dropped(why),
            "samples": {
                reason: [{"id": ids[row], "title": titles[row]} for row in rows]
                for reason, rows in counts.sample_rows(why, content_hashes(ids)).items()
            },
        }


def _unit(extracted: UnitResult, decisions: list[DecisionsFile]) -> Unit:
    files = {name: extracted.files[name] for name in (DOCUMENTS, INDEX)}
    made = {f"decisions {number}": file.sha256 for number, file in enumerate(decisions)}
    return Unit(
        extracted.name,
        inputs={name: about["sha256"] for name, about in files.items()} | made,
        bytes=files[DOCUMENTS]["bytes"],
        payload={
            "documents": str(extracted.folder / DOCUMENTS),
            "index": str(extracted.folder / INDEX),
            "decisions": [str(file.path) for file in decisions],
        },
    )


def _decontaminated(directory: Path) -> dict[str, DecisionsFile]:
    units = finished(directory)
    if not units:
        raise DataError(f"{directory}: no decisions yet; run the stage curate again")
    return {
        unit.name: DecisionsFile(unit.folder / DECISIONS, unit.files[DECISIONS]["sha256"])
        for unit in units
    }


def _index_of(path: Path) -> pa.Table:
    """The index's rows of documents, without its deletions."""
    table = pq.read_table(path, columns=_COLUMNS)
    return table.filter(pc.equal(table["kind"].cast(pa.string()), "document"))


def _differs(documents: Path, found: int, expected: int) -> DataError:
    return DataError(
        f"{documents}: {found} documents, but its index has {expected}; extract the unit again"
    )


def _splits(kept: pa.Table, validation_fraction: float) -> np.ndarray:
    """Place in SPLITS of each document's split, int8: see data_prep.documents.article_key."""
    ids = kept["id"].to_pylist()
    known = [(name, kept[name].to_pylist()) for name in _KEYS if kept[name].null_count < len(kept)]
    places = {split: place for place, split in enumerate(SPLITS)}
    found = np.empty(len(ids), np.int8)
    for row, key in enumerate(ids):
        for name, values in known:
            if values[row]:
                key = f"{name}:{values[row]}"
                break
        found[row] = places[split_of(key, validation_fraction)]
    return found


def _deal(documents: Path, goes: np.ndarray, reasons: np.ndarray, folder: Path) -> list[str]:
    """Copy each line to its split; what goes into none is listed. Returns the titles of these.

    Raises DataError where there are not as many lines as documents in the index.
    """
    titles: list[str] = []
    begin = 0
    with (
        DocumentWriter(folder / "train.jsonl.zst") as train,
        DocumentWriter(folder / "validation.jsonl.zst") as validation,
        DocumentWriter(folder / "dropped.jsonl.zst") as dropped,
    ):
        for lines in read_raw_lines(documents):
            part = goes[begin : begin + len(lines)]
            if len(part) == len(lines):
                for place, writer in enumerate((train, validation)):
                    writer.write_raw(list(compress(lines, (part == place).tolist())))
                listed = [
                    _listed(orjson.loads(lines[row]), reasons[begin + row])
                    for row in np.flatnonzero(part == _DROPPED).tolist()
                ]
                titles += [entry["title"] for entry in listed]
                dropped.write_all(listed)
            begin += len(lines)
    if begin != len(goes):
        raise _differs(documents, begin, len(goes))
    return titles


def _listed(document: Document, reason: str) -> dict[str, str]:
    title = document["text"].partition("\n\n")[0][:TITLE_CHARACTERS]
    return {"id": document["id"], "reason": reason, "title": title}


def _write_seen(seen: pa.Table, path: Path) -> None:
    hashes = pa.array(content_hashes(seen["id"].to_pylist()))
    table = pa.table({"id_hash": hashes, "text_hash": seen["text_hash"]})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
