"""The stage that trains a tokenizer on the corpus, extends one, or takes one that exists."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.config import CorpusConfig, ExtendTokenizer, TrainTokenizer
from data_prep.errors import ConfigError
from data_prep.files import sha256_file
from data_prep.tokenizer.byte_level import train_byte_level
from data_prep.tokenizer.encode import load_encoder
from data_prep.tokenizer.existing import FILES, copy_tokenizer
from data_prep.tokenizer.extend import base_files, extend_tokenizer, model_file
from data_prep.tokenizer.llama_like import train_llama_like
from data_prep.tokenizer.sample import Sample
from data_prep.units import Stage, Unit, UnitResult, finished, source_of

TRAIN_FILE = "train.jsonl.zst"


class TokenizerStage(Stage):
    """One unit, "model": a tokenizer's folder as Hugging Face's AutoTokenizer reads it, offline.

    Trained or extended: from documents taken evenly over all curated units. Given: the files of the folder,
    completed by tokenizer.json and tokenizer_config.json where they are missing.
    """

    name = "tokenizer"
    version = 3

    def __init__(self, config: CorpusConfig):
        self.directory = config.output / "tokenizer"
        self.curated = config.output / "curate"
        self.sources = frozenset(config.sources)
        self.train, self.extend = config.tokenizer.train, config.tokenizer.extend
        self.path = config.tokenizer.path
        self.settings = {
            "train": self.train and self.train.model_dump(mode="json"),
            # Where files are is no setting; what is in them is an input.
            "extend": self.extend
            and self.extend.model_dump(mode="json", exclude={"path", "pieces"}),
        }

    def units(self) -> list[Unit]:
        if self.path:
            return [_copied_unit(self.path)]
        curated = [unit for unit in finished(self.curated) if source_of(unit.name) in self.sources]
        if not curated:
            return []
        return [_trained_unit(curated, _files_to_extend(self.extend) if self.extend else {})]

    def run_unit(self, unit: Unit, folder: Path) -> dict[str, Any]:
        counts: dict[str, int] = {}
        if self.path:
            copy_tokenizer(Path(unit.payload["path"]), folder)
        else:
            documents = [Path(path) for path in unit.payload["documents"]]
            characters = unit.payload["characters"]
            if self.train:
                counts = train_tokenizer(documents, characters, self.train, folder)
            elif self.extend:
                sample = Sample(documents, characters, self.extend.sample_bytes)
                counts = extend_tokenizer(self.extend, sample, folder)
        encoder = load_encoder(folder)
        return counts | {
            "vocabulary_size": encoder.vocabulary_size,
            "fingerprint": encoder.fingerprint,
        }


def _copied_unit(path: Path) -> Unit:
    files = [path / name for name in FILES if (path / name).is_file()]
    if not files:
        raise ConfigError(
            f"tokenizer.path: no tokenizer in {path}; expected a folder with tokenizer.json, "
            "vocab.json and merges.txt, or tokenizer.model"
        )
    return Unit(
        "model",
        inputs={file.name: sha256_file(file) for file in files},
        bytes=sum(file.stat().st_size for file in files),
        payload={"path": str(path)},
    )


def _files_to_extend(settings: ExtendTokenizer) -> dict[str, str]:
    """Hash of what is extended, and of what is added to it, by a name that says which."""
    files = {f"base {file.name}": file for file in base_files(settings.path)}
    if settings.pieces:
        files["pieces"] = model_file(settings.pieces, "tokenizer.extend.pieces")
    return {name: sha256_file(file) for name, file in files.items()}


def _trained_unit(curated: Sequence[UnitResult], files: dict[str, str]) -> Unit:
    return Unit(
        "model",
        inputs=files | {unit.name: unit.files[TRAIN_FILE]["sha256"] for unit in curated},
        bytes=sum(unit.files[TRAIN_FILE]["bytes"] for unit in curated),
        payload={
            "documents": [str(unit.folder / TRAIN_FILE) for unit in curated],
            "characters": sum(
                unit.counts["splits"].get("train", {}).get("characters", 0) for unit in curated
            ),
        },
    )


def train_tokenizer(
    documents: Sequence[Path], characters: int, settings: TrainTokenizer, folder: Path
) -> dict[str, int]:
    """Train a tokenizer and write it into `folder`; `characters` is how many the files hold.

    Raises DataError where the files hold no document.
    """
    sample = Sample(documents, characters, settings.sample_bytes)
    train = train_llama_like if settings.kind == "sentencepiece" else train_byte_level
    return train(sample, settings, folder)
