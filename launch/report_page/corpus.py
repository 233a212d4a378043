"""What a corpus folder says about itself: shard sets, sources, years, lengths, what was dropped and why."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.errors import ConfigError
from data_prep.shards.manifest import DOCUMENTS_FILE, MANIFEST, Manifest
from data_prep.units import failures, finished

# Stages that leave records out, and where their counts say why.
REASONS = {"extract": "reject_reasons", "curate": "dropped"}
UNKNOWN_YEAR = "unknown"


@dataclass
class CorpusFigures:
    """Totals over a corpus; `tally` maps source and year to [documents, tokens]."""

    sets: dict[str, Manifest] = field(default_factory=dict)  # by folder name
    tally: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    lengths: dict[str, Counter[int]] = field(default_factory=dict)  # source: {lowest tokens: n}
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)  # (stage, reason)
    failed: dict[str, str] = field(default_factory=dict)  # stage/unit: reason
    missing: list[str] = field(default_factory=list)  # what could not be shown


def read_corpus(folder: Path) -> CorpusFigures:
    """Figures of the folder that `python -m data_prep` wrote. ConfigError where it is no such folder."""
    if not folder.is_dir():
        raise ConfigError(f"corpus: {folder} is not a folder; give the output folder of a corpus")
    figures = CorpusFigures()
    _read_sets(folder / "shards", figures)
    for stage, reasons in REASONS.items():
        _read_stage(folder / stage, stage, reasons, figures)
    return figures


def _read_sets(shards: Path, figures: CorpusFigures) -> None:
    folders = sorted(path.parent for path in shards.glob(f"*/{MANIFEST}"))
    if not folders:
        figures.missing.append(f"shard sets, because there are none in {shards}")
    for folder in folders:
        manifest = figures.sets[folder.name] = Manifest.read(folder)
        _read_documents(folder / DOCUMENTS_FILE, manifest.source, figures)


def _read_documents(path: Path, source: str, figures: CorpusFigures) -> None:
    years = figures.tally.setdefault(source, defaultdict(lambda: [0, 0]))
    lengths = figures.lengths.setdefault(source, Counter())
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["year", "tokens"]):
            tokens = batch["tokens"].to_numpy()
            year = pc.fill_null(batch["year"], -1).to_numpy()
            found, place = np.unique(year, return_inverse=True)
            documents = np.bincount(place)
            sums = np.bincount(place, weights=tokens)
            for index, number in enumerate(found.tolist()):
                entry = years[UNKNOWN_YEAR if number < 0 else str(number)]
                entry[0] += int(documents[index])
                entry[1] += int(sums[index])
            # Bins are powers of two, named by their lowest length.
            powers = np.floor(np.log2(np.maximum(tokens, 1))).astype(int)
            for power, number in enumerate(np.bincount(powers).tolist()):
                if number:
                    lengths[1 << power] += number


def _read_stage(directory: Path, stage: str, reasons: str, figures: CorpusFigures) -> None:
    if not directory.is_dir():
        figures.missing.append(
            f"what the stage {stage} left out, because {directory} does not exist"
        )
        return
    figures.failed |= {f"{stage}/{unit}": reason for unit, reason in failures(directory).items()}
    for unit in finished(directory):
        for reason, number in unit.counts[reasons].items():
            figures.dropped[stage, reason] += number
