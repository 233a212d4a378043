"""The stage that decides, over all sources at once, which record stands for each article.

Of a PubMed citation's revisions the newest wins. A retraction marked anywhere drops the article
everywhere. Where an article's full text stays, its citation is dropped; of several full texts the one of
the highest version stays, of equal ones the first by unit name and place. A full text that the filters drop counts as absent, or its article would
be lost in both forms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.config import CorpusConfig
from data_prep.curate import citations
from data_prep.curate.articles import (
    ArticleKeys,
    concatenate,
    same_article,
    shares_a_key,
    unique_keys,
)
from data_prep.curate.filters import FilterSettings, filter_settings
from data_prep.curate.index import (
    INDEX,
    read_events,
    read_indexed_documents,
    read_positions,
)
from data_prep.units import Stage, Unit, finished, source_of

UNIT = "all"

REASONS = ("keep", "superseded", "deleted", "retracted", "has_full_text", "duplicate_id")
# The first three are the codes that `citations.winners` gives.
KEEP, SUPERSEDED, DELETED = citations.KEPT, citations.SUPERSEDED, citations.DELETED
RETRACTED, HAS_FULL_TEXT, DUPLICATE_ID = 3, 4, 5

NOT_CHOSEN = -1

Reasons = dict[str, np.ndarray]
"""By unit name the reason code (uint8) of each of its documents."""


class IdentifyStage(Stage):
    """Writes `decisions/<unit>.parquet` for each extracted unit: its documents' position and reason.

    `position` (int64) is the document's place in the unit, in order; `reason` is one of REASONS. The stage's one unit is done again when an index changes.
    Memory: 55 bytes a PubMed record, and 150 a full text or a citation that has one.
    """

    name = "identify"
    version = 1

    def __init__(self, config: CorpusConfig):
        self.directory = config.output / "identify"
        self.extracted = config.extracted
        self.filters = filter_settings(config.curate)
        self.settings = {
            "formats": {name: source.format for name, source in config.sources.items()},
            "drop_retracted": config.curate.drop_retracted,
            "filters": self.filters,
        }

    def units(self) -> list[Unit]:
        formats = self.settings["formats"]
        results = [unit for unit in finished(self.extracted) if source_of(unit.name) in formats]
        if not results:
            return []
        return [
            Unit(
                UNIT,
                inputs={unit.name: unit.files[INDEX]["sha256"] for unit in results},
                bytes=sum(unit.files[INDEX]["bytes"] for unit in results),
                payload={"indexes": {unit.name: str(unit.folder / INDEX) for unit in results}},
            )
        ]

    def run_unit(self, unit: Unit, folder: Path) -> dict[str, Any]:
        paths = {name: Path(path) for name, path in sorted(unit.payload["indexes"].items())}
        formats = self.settings["formats"]
        cited = {name: p for name, p in paths.items() if formats[source_of(name)] == "pubmed"}
        texts = {name: p for name, p in paths.items() if name not in cited}
        counts: dict[str, Counter[str]] = {}
        for name, reasons in decide(
            cited, texts, self.settings["drop_retracted"], self.filters
        ).items():
            _write(folder / decisions_file(name), read_positions(paths[name]), reasons)
            tally = np.bincount(reasons, minlength=len(REASONS)).tolist()
            counts.setdefault(source_of(name), Counter()).update(
                dict(zip(REASONS, tally, strict=True))
            )
        return {source: dict(tally) for source, tally in counts.items()}


def decisions_file(unit: str) -> str:
    """Where in the stage's one unit the decisions about an extracted unit are."""
    return f"decisions/{unit}.parquet"


def decide(
    cited: dict[str, Path],
    texts: dict[str, Path],
    drop_retracted: bool,
    filters: FilterSettings,
) -> Reasons:
    """Decide on the documents of all indexes: PubMed's (`cited`) and the full texts', by unit name."""
    decisions = newest_citations(cited)
    parts = {
        name: read_indexed_documents(path, source_of(name), filters) for name, path in texts.items()
    }
    text_keys = concatenate([part.keys for part in parts.values()])
    text_retracted = _joined([part.retracted for part in parts.values()])
    passes = _joined([part.passes for part in parts.values()])
    versions = np.concatenate([np.zeros(0, np.int16), *(part.version for part in parts.values())])

    # A citation that meets no full text decides about itself alone; only the others have to be in
    # memory together.
    wanted = unique_keys(text_keys)
    met: dict[str, np.ndarray] = {}
    met_keys, met_retracted = [], []
    for name, path in cited.items():
        documents = read_indexed_documents(path, source_of(name), filters)
        stands = decisions[name] == KEEP
        if drop_retracted:
            decisions[name][stands & documents.retracted] = RETRACTED
        met[name] = np.flatnonzero(stands & shares_a_key(documents.keys, wanted))
        met_keys.append(documents.keys.take(met[name]))
        met_retracted.append(documents.retracted[met[name]])

    marked = [text_retracted, *met_retracted]
    reasons = of_articles(
        text_keys, passes, versions, concatenate(met_keys), _joined(marked) & drop_retracted
    )
    sizes = [len(part) for part in parts.values()] + [len(rows) for rows in met.values()]
    pieces = iter(np.split(reasons, np.cumsum(sizes)[:-1]) if sizes else [])
    decisions |= {name: next(pieces) for name in parts}
    for name, rows in met.items():
        decisions[name][rows] = next(pieces)
    return decisions


def of_articles(
    texts: ArticleKeys,
    passes: np.ndarray,
    versions: np.ndarray,
    cited: ArticleKeys,
    retracted: np.ndarray,
) -> np.ndarray:
    """Reason codes (uint8) of full texts, then of citations that meet one.

    Of an article's full texts the first of the highest version stays. `passes` marks the full texts that the filters keep; the others are left to them (KEEP).
    `retracted` marks rows of both, in the same order; one mark drops every row of the article.
    """
    article = same_article(concatenate([texts, cited]))
    rows = np.flatnonzero(passes)
    worst_first = rows[np.argsort(-versions[rows], kind="stable")][::-1]
    chosen = np.full(len(article), NOT_CHOSEN)
    chosen[article[worst_first]] = worst_first  # the last write is the article's best full text
    chosen = chosen[article]

    reasons = np.where(chosen == NOT_CHOSEN, KEEP, HAS_FULL_TEXT).astype(np.uint8)
    reasons[: len(texts)] = KEEP
    reasons[rows[chosen[rows] != rows]] = DUPLICATE_ID
    withdrawn = np.zeros(len(article), dtype=bool)
    withdrawn[article[retracted]] = True
    reasons[withdrawn[article]] = RETRACTED
    return reasons


def newest_citations(paths: dict[str, Path]) -> Reasons:
    """KEEP, SUPERSEDED or DELETED for the documents of each PubMed index.

    Files are ordered by the year and number in their names, those without by unit name before them.
    """
    files = {name: read_events(path) for name, path in paths.items()}
    if not files:
        return {}
    by_age = sorted(files, key=lambda name: (files[name].file, name))
    rank = {name: number for number, name in enumerate(by_age)}
    sizes = [len(events.pmid) for events in files.values()]
    _, code = citations.winners(
        np.concatenate([events.pmid for events in files.values()]),
        np.concatenate([events.version for events in files.values()]),
        np.repeat([rank[name] for name in files], sizes).astype(np.int32),
        np.concatenate([events.position for events in files.values()]),
        np.concatenate([events.is_deletion for events in files.values()]),
    )
    codes = np.split(code, np.cumsum(sizes)[:-1])
    return {
        name: part[~events.is_deletion]
        for (name, events), part in zip(files.items(), codes, strict=True)
    }


def _joined(masks: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=bool), *masks])


def _write(path: Path, positions: pa.ChunkedArray, reasons: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coded = pa.DictionaryArray.from_arrays(pa.array(reasons), pa.array(REASONS))
    pq.write_table(pa.table({"position": positions, "reason": coded}), path, compression="zstd")
