"""Curated units of made-up texts, and the stages from them to shard sets."""

from pathlib import Path
from typing import Any

from data_prep.config import CorpusConfig
from data_prep.curate.stage import CurateStage
from data_prep.documents import DocumentWriter, empty_metadata
from data_prep.run.executor import StageReport, run_stage
from data_prep.shards.build import PackStage, ShardSetStage
from data_prep.tokenizer.train import TokenizerStage
from data_prep.units import Stage, Unit

Units = dict[str, dict[str, list[str]]]
TEXTS: Units = {
    "words/a": {
        "train": [f"renal failure {number} of 高 " * (number % 7) for number in range(40)],
        "validation": ["a <|endoftext|> b </s>", "\x00\x00"],
    },
    "words/b": {"train": ["acute " * 60], "validation": []},
    "other/c": {"train": ["one text"], "validation": []},
}


class Curated(Stage):
    """Writes texts as curated units, whose ids are their places."""

    name, version = "curate", 1

    def __init__(self, config: CorpusConfig, units: Units):
        self.directory = config.output / "curate"
        self.settings = CurateStage(config).settings
        self.texts = units

    def units(self) -> list[Unit]:
        return [Unit(name, {"texts": str(texts)}, 1) for name, texts in sorted(self.texts.items())]

    def run_unit(self, unit: Unit, folder: Path) -> dict[str, Any]:
        for split, texts in self.texts[unit.name].items():
            with DocumentWriter(folder / f"{split}.jsonl.zst") as writer:
                for number, text in enumerate(texts):
                    name = f"text:{unit.name}/{split}#{number}"
                    metadata = empty_metadata() | {"year": 1990, "doi": f"10.1/{number}"}
                    source = unit.name.partition("/")[0]
                    writer.write({"id": name, "text": text, "source": source, "metadata": metadata})
        return {}


def run_all(config: CorpusConfig, units: Units = TEXTS, workers: int = 1) -> list[StageReport]:
    stages = [Curated(config, units), TokenizerStage(config), PackStage(config)]
    return [run_stage(stage, workers) for stage in [*stages, ShardSetStage(config)]]
