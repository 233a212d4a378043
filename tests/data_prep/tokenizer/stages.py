"""Curated units for the tokenizer stage, and what transformers reads of its output."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from data_prep.config import CorpusConfig
from data_prep.config_file import validate
from data_prep.documents import DocumentWriter, empty_metadata
from data_prep.units import Stage, Unit, source_of

# Loads with transformers in a process of its own, which may import what data_prep must not.
LOAD = """
import json, sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
texts = json.loads(sys.argv[2])
print(json.dumps({
    "ids": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts],
    "begin": tokenizer.bos_token_id, "end": tokenizer.eos_token_id, "length": len(tokenizer),
}))
"""


def as_transformers_reads(folder: Path, texts: list[str]) -> dict[str, Any]:
    run = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder), json.dumps(texts)],
        env={"HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(run.stdout.splitlines()[-1])


class Curated(Stage):
    """Writes given texts as curated units."""

    name, version = "curate", 1

    def __init__(self, output: Path, texts: dict[str, list[str]], **metadata: Any):
        self.directory = output / "curate"
        self.settings = {}
        self.texts = texts
        self.metadata = empty_metadata() | metadata

    def units(self) -> list[Unit]:
        return [Unit(name, {"texts": str(texts)}, 1) for name, texts in sorted(self.texts.items())]

    def run_unit(self, unit: Unit, folder: Path) -> dict[str, Any]:
        texts = self.texts[unit.name]
        with DocumentWriter(folder / "train.jsonl.zst") as train:
            for number, text in enumerate(texts):
                record = {
                    "id": f"{unit.name}#{number}",
                    "text": text,
                    "source": source_of(unit.name),
                }
                train.write(record | {"metadata": self.metadata})
        characters = sum(map(len, texts))
        return {"splits": {"train": {"documents": len(texts), "characters": characters}}}


def config(output: Path, tokenizer: dict[str, Any]) -> CorpusConfig:
    sources = {"words": {"format": "text", "path": "somewhere"}}
    values = {"output": str(output), "sources": sources, "tokenizer": tokenizer}
    return validate(CorpusConfig, values, "test")
