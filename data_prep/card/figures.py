"""What a corpus folder holds: shard sets, years, licences, journals, lengths, and what was dropped and why."""

from collections import Counter, defaultdict
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.card.provenance import Provenance, read_config, read_provenance
from data_prep.config import CorpusConfig
from data_prep.curate.decontaminate import contamination
from data_prep.errors import ConfigError, ProjectError
from data_prep.shards.manifest import DOCUMENTS_FILE, MANIFEST, Manifest
from data_prep.status import CONFIG
from data_prep.units import UnitResult, failures, finished, source_of

UNKNOWN = "unknown"
PROPERTIES = ("licence", "journal")  # columns of documents.parquet that are tallied

Tally = dict[str, list[int]]
"""By value: [documents, tokens], or [documents, characters] where no tokens are known."""


@dataclass
class CorpusFigures:
    """Totals over a corpus; `years` maps source and year to [documents, tokens]."""

    sets: dict[str, Manifest] = field(default_factory=dict)  # by folder name
    years: dict[str, Tally] = field(default_factory=dict)
    lengths: dict[str, Counter[int]] = field(default_factory=dict)  # source: {lowest tokens: n}
    properties: dict[str, Tally] = field(default_factory=dict)  # of PROPERTIES, by tokens
    languages: Tally = field(default_factory=dict)  # by characters
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)  # (stage, reason)
    samples: dict[str, list[dict[str, str]]] = field(default_factory=dict)  # of what was dropped
    extraction: dict[str, dict[str, Any]] = field(default_factory=dict)  # by source
    near_duplicates: dict[str, Any] = field(default_factory=dict)
    contamination: list[dict[str, Any]] = field(default_factory=list)  # one entry a benchmark
    provenance: list[Provenance] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # stage/unit: reason
    missing: list[str] = field(default_factory=list)  # what could not be shown

    def total(self, name: str) -> int:
        """Sum of a manifest's count over all sets."""
        return sum(one.counts[name] for one in self.sets.values())


def read_corpus(folder: Path) -> CorpusFigures:
    """Figures of the folder that `python -m data_prep` wrote. ConfigError where it is no such folder."""
    if not folder.is_dir():
        raise ConfigError(f"corpus: {folder} is not a folder; give the output folder of a corpus")
    figures = CorpusFigures()
    config = read_config(folder)
    if config is None:
        figures.missing.append(f"where the text came from, because {folder / CONFIG} is not there")
    else:
        figures.provenance = read_provenance(config)
        _read_benchmarks(config, figures)
    _read_sets(folder / "shards", figures)
    _read_extraction(config, folder, figures)
    _read_curation(folder / "curate", figures)
    for unit in finished(folder / "near_duplicates"):
        figures.near_duplicates = unit.counts
    return figures


def _read_benchmarks(config: CorpusConfig, figures: CorpusFigures) -> None:
    if config.curate.decontaminate is None:
        return
    if not finished(config.output / "decontaminate"):
        figures.missing.append("the benchmarks that the config names: nobody has looked for them")
        return
    try:
        figures.contamination = contamination(config)
    except ProjectError as error:
        figures.missing.append(f"the benchmarks that were kept out: {error}")


def _read_sets(shards: Path, figures: CorpusFigures) -> None:
    folders = sorted(path.parent for path in shards.glob(f"*/{MANIFEST}"))
    if not folders:
        figures.missing.append(f"shard sets, because there are none in {shards}")
    for folder in folders:
        manifest = figures.sets[folder.name] = Manifest.read(folder)
        _read_documents(folder / DOCUMENTS_FILE, manifest.source, figures)


def _read_documents(path: Path, source: str, figures: CorpusFigures) -> None:
    years = figures.years.setdefault(source, defaultdict(lambda: [0, 0]))
    lengths = figures.lengths.setdefault(source, Counter())
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["year", *PROPERTIES, "tokens"]):
            table = pa.Table.from_batches([batch])
            _add_tally(table, "year", years)
            for name in PROPERTIES:
                tally = figures.properties.setdefault(name, defaultdict(lambda: [0, 0]))
                _add_tally(table, name, tally)
            # Bins are powers of two, named by their lowest length.
            tokens = batch["tokens"].to_numpy()
            powers = np.floor(np.log2(np.maximum(tokens, 1))).astype(int)
            for power, number in enumerate(np.bincount(powers).tolist()):
                if number:
                    lengths[1 << power] += number


def _add_tally(table: pa.Table, column: str, tally: Tally) -> None:
    values = pc.fill_null(table[column].cast(pa.string()), UNKNOWN)
    grouped = pa.table({"value": values, "tokens": table["tokens"]}).group_by("value")
    for row in grouped.aggregate([("tokens", "count"), ("tokens", "sum")]).to_pylist():
        tally[row["value"]][0] += row["tokens_count"]
        tally[row["value"]][1] += row["tokens_sum"]


def _read_extraction(config: CorpusConfig | None, folder: Path, figures: CorpusFigures) -> None:
    directory = config.extracted if config else folder / "extract"
    sources = config.sources if config else None  # other corpora may share the folder
    for unit in _units(directory, "extract", figures, sources):
        counts = unit.counts
        for reason, number in counts["reject_reasons"].items():
            figures.dropped["extract", reason] += number
        sums = figures.extraction.setdefault(source_of(unit.name), {})
        for name in ("documents", "deletions", "retracted", "notices"):
            sums[name] = sums.get(name, 0) + counts.get(name, 0)
        for group in ("met", "body"):
            added = sums.setdefault(group, Counter())
            added.update({k: v for k, v in counts.get(group, {}).items() if isinstance(v, int)})


def _read_curation(directory: Path, figures: CorpusFigures) -> None:
    for unit in _units(directory, "curate", figures):
        for reason, number in unit.counts["dropped"].items():
            figures.dropped["curate", reason] += number
        for reason, samples in unit.counts.get("samples", {}).items():
            figures.samples.setdefault(reason, []).extend(samples)
        for value, sums in unit.counts.get("kept_by", {}).get("language", {}).items():
            entry = figures.languages.setdefault(value, [0, 0])
            entry[0] += sums["documents"]
            entry[1] += sums["characters"]


def _units(
    directory: Path, stage: str, figures: CorpusFigures, sources: Container[str] | None = None
) -> list[UnitResult]:
    """A stage's finished units, of some sources or all; those that failed are noted."""
    if not directory.is_dir():
        figures.missing.append(f"what the stage {stage} left out: {directory} does not exist")
        return []

    def mine(unit: str) -> bool:
        return sources is None or source_of(unit) in sources

    for unit, reason in failures(directory).items():
        if mine(unit):
            figures.failed[f"{stage}/{unit}"] = reason
    return [result for result in finished(directory) if mine(result.name)]
