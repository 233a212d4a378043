"""What a corpus folder holds: shard sets, years, licences, journals, lengths, and what was dropped and why."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.card.provenance import Provenance, read_provenance
from data_prep.errors import ConfigError
from data_prep.shards.manifest import DOCUMENTS_FILE, MANIFEST, Manifest
from data_prep.units import failures, finished

# Stages that leave records out, and where their counts say why.
REASONS = {"extract": "reject_reasons", "curate": "dropped"}
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
    near_duplicates: dict[str, int] = field(default_factory=dict)
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
    raw, figures.provenance = read_provenance(folder)
    _read_sets(folder / "shards", figures)
    for stage, directory in (("extract", raw / "extract"), ("curate", folder / "curate")):
        _read_stage(directory, stage, figures)
    return figures


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


def _read_stage(directory: Path, stage: str, figures: CorpusFigures) -> None:
    if not directory.is_dir():
        figures.missing.append(
            f"what the stage {stage} left out, because {directory} does not exist"
        )
        return
    figures.failed |= {f"{stage}/{unit}": reason for unit, reason in failures(directory).items()}
    for unit in finished(directory):
        for reason, number in unit.counts[REASONS[stage]].items():
            figures.dropped[stage, reason] += number
