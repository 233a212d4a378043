"""What a run's folder says: loss, validation, throughput, interruptions, and how it stands."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from data_prep.errors import ConfigError
from data_prep.files import read_json
from pretrain.watch.metrics import METRICS, ROLLED_BACK, read_metrics


@dataclass(frozen=True)
class RunFigures:
    """The lines of metrics.jsonl by kind, each with its step."""

    name: str
    folder: Path
    training: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    resumed: list[dict[str, Any]]
    rolled_back: int  # lines that a resume moved aside
    status: dict[str, Any]
    settings: str | None  # config.yaml, as it stands

    @property
    def sources(self) -> list[str]:
        """Sources that were validated on."""
        return sorted({source for line in self.validation for source in line["validation"]})

    def validated(self, source: str) -> list[dict[str, Any]]:
        """One source's validation: {"step", "loss", "perplexity", …} of each."""
        return [
            {"step": line["step"], **line["validation"][source]}
            for line in self.validation
            if source in line["validation"]
        ]

    @property
    def median_rate(self) -> float:
        """Tokens a second of the middle step: the first steps, which warm up, do not move it."""
        return median(line["tokens_per_second"] for line in self.training)


def read_run(name: str, folder: Path) -> RunFigures:
    """Figures of a run's folder. ConfigError where it holds no metrics."""
    if not (folder / METRICS).is_file():
        raise ConfigError(f"runs.{name}: {folder} has no {METRICS}; give the folder of a run")
    lines = list(read_metrics(folder))
    rolled_back = folder / ROLLED_BACK
    return RunFigures(
        name,
        folder,
        [line for line in lines if "loss" in line],
        [line for line in lines if "validation" in line],
        [line for line in lines if line.get("event") == "resumed"],
        len(rolled_back.read_text().splitlines()) if rolled_back.exists() else 0,
        read_json(folder / "status.json") if (folder / "status.json").exists() else {},
        (folder / "config.yaml").read_text() if (folder / "config.yaml").exists() else None,
    )
