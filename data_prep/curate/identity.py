"""The stage that decides, over all sources at once, by what is known of every document without its text.

Of a PubMed citation's revisions the newest stands, unless it was deleted; a full text that its source
withdrew is deleted too. A retraction marked anywhere, or in a notice about it, drops the article everywhere.
Where an article's full text stays, its citation is dropped; of several full texts one stays (see
full_texts.best_first). A full text that the filters drop counts as absent, or its article would be lost in
both forms. What is left goes through the filters and the quality weights, and what an earlier corpus held
is left out.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.config import CorpusConfig
from data_prep.curate.decide import Reasons, Rules, decide
from data_prep.curate.decisions import write_decisions
from data_prep.curate.filters import filter_settings
from data_prep.curate.index import INDEX
from data_prep.curate.quality import quality_settings
from data_prep.curate.reasons import KEEP, REASONS, SEEN_BEFORE
from data_prep.curate.since import (
    SEEN,
    WITHDRAWN,
    Seen,
    find_earlier,
    read_seen,
    write_seen,
    write_withdrawn,
)
from data_prep.curate.steps import decisions_name
from data_prep.units import Stage, Unit, finished, source_of

UNIT = "all"
SINCE = "curate.since"  # no unit's name: a source's name has no dot


class IdentifyStage(Stage):
    """Writes `decisions/<unit>.parquet` for each extracted unit; see data_prep.curate.decisions.

    The stage's one unit is done again when an index changes. Its counts are, by source, the numbers of
    documents by reason; `weights`, how many documents were weighed, by weight; and `withdrawn_since`, by
    reason, how many documents that the earlier corpus held were withdrawn ("absent": no index knows
    them), which withdrawn.parquet names.
    """

    name = "identify"
    version = 3

    def __init__(self, config: CorpusConfig):
        self.directory = config.output / "identify"
        self.extracted = config.extracted
        self.settings = {
            "formats": {name: source.format for name, source in config.sources.items()},
            "drop_retracted": config.curate.drop_retracted,
            "same_title": config.curate.same_title,
            "filters": filter_settings(config.curate),
            "quality": quality_settings(config.curate.quality),
        }
        self._since = config.curate.since
        self._output = config.output

    def units(self) -> list[Unit]:
        formats = self.settings["formats"]
        results = [unit for unit in finished(self.extracted) if source_of(unit.name) in formats]
        if not results:
            return []
        unit = Unit(
            UNIT,
            inputs={unit.name: unit.files[INDEX]["sha256"] for unit in results},
            bytes=sum(unit.files[INDEX]["bytes"] for unit in results),
            payload={"indexes": {unit.name: str(unit.folder / INDEX) for unit in results}},
        )
        if self._since:
            earlier = find_earlier(self._since, self._output)
            unit.inputs[SINCE] = earlier.hash
            unit.payload["since"] = [str(path) for path in earlier.files]
        return [unit]

    def run_unit(self, unit: Unit, folder: Path) -> dict[str, Any]:
        paths = {name: Path(path) for name, path in sorted(unit.payload["indexes"].items())}
        decisions, weighed = decide(paths, Rules(**self.settings))
        counts: dict[str, Any] = {}
        if "since" in unit.payload:
            files = [Path(path) for path in unit.payload["since"]]
            counts["withdrawn_since"] = _leave_out_seen(paths, decisions, files, folder)
        by_source: dict[str, np.ndarray] = {}
        for name, codes in decisions.items():
            write_decisions(folder / decisions_name(name), codes, REASONS)
            tally = np.bincount(codes, minlength=len(REASONS))
            by_source[source_of(name)] = by_source.get(source_of(name), 0) + tally
        if self.settings["quality"]:
            counts["weights"] = dict(sorted(weighed.items()))
        return counts | {
            source: dict(zip(REASONS, tally.tolist(), strict=True))
            for source, tally in by_source.items()
        }


def _leave_out_seen(
    paths: dict[str, Path], decisions: Reasons, files: list[Path], folder: Path
) -> dict[str, int]:
    """Mark what an earlier corpus held as seen before, in place; and list what of it was withdrawn."""
    table = read_seen(files)
    write_seen(folder / SEEN, table)
    seen = Seen(table)
    for name, path in paths.items():
        again = seen.meet(path, decisions[name])
        decisions[name][again & (decisions[name] == KEEP)] = SEEN_BEFORE
    withdrawn = seen.withdrawn()
    write_withdrawn(folder / WITHDRAWN, withdrawn)
    return dict(Counter(withdrawn.values())) | {"absent": seen.absent()}
