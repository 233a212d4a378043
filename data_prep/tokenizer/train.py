"""The stage that trains a tokenizer on the corpus, or takes one that exists."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers.implementations import ByteLevelBPETokenizer

from data_prep.config import CorpusConfig, TrainTokenizer
from data_prep.documents import read_documents
from data_prep.errors import ConfigError, DataError
from data_prep.files import sha256_file
from data_prep.tokenizer.definition import END_OF_TEXT
from data_prep.tokenizer.encode import load_encoder
from data_prep.tokenizer.existing import FILES, copy_tokenizer, write_names
from data_prep.units import Stage, Unit, UnitResult, finished, source_of

TRAIN_FILE = "train.jsonl.zst"
# Characters of a text at once: tokenizers takes 76 bytes of memory for each (measured), and time that grows with the
# square of a word's length.
_PIECE = 1 << 14


class TokenizerStage(Stage):
    """One unit, "model": a tokenizer's folder as Hugging Face's AutoTokenizer reads it, offline.

    Trained: a byte-level BPE as BioMedLM's (its tokenize/train_bpe.py), from documents taken evenly
    over all curated units. Given: the files of the folder, completed by tokenizer.json and
    tokenizer_config.json where they are missing.
    """

    name = "tokenizer"
    version = 2

    def __init__(self, config: CorpusConfig):
        self.directory = config.output / "tokenizer"
        self.curated = config.output / "curate"
        self.sources = frozenset(config.sources)
        self.train = config.tokenizer.train
        self.path = config.tokenizer.path
        self.settings = (
            {"train": self.train.model_dump(mode="json")} if self.train else {"train": None}
        )

    def units(self) -> list[Unit]:
        if self.path:
            return [_copied_unit(self.path)]
        curated = [unit for unit in finished(self.curated) if source_of(unit.name) in self.sources]
        return [_trained_unit(curated)] if curated else []

    def run_unit(self, unit: Unit, folder: Path) -> dict[str, Any]:
        if self.train:
            counts = train_tokenizer(
                [Path(path) for path in unit.payload["documents"]],
                unit.payload["characters"],
                self.train,
                folder,
            )
        else:
            copy_tokenizer(Path(unit.payload["path"]), folder)
            counts = {}
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


def _trained_unit(curated: Sequence[UnitResult]) -> Unit:
    return Unit(
        "model",
        inputs={unit.name: unit.files[TRAIN_FILE]["sha256"] for unit in curated},
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
    """Train a byte-level BPE and write it into `folder`; `characters` is how many the files hold.

    Ids: 256 bytes, then merges, then the end token, always last. Where the text has too few pairs that
    occur `min_frequency` times, the vocabulary is smaller than asked for; the counts show it.
    """
    sample = _Sample(documents, characters, settings.sample_bytes)
    tokenizer = ByteLevelBPETokenizer(add_prefix_space=False, trim_offsets=True)
    tokenizer.train_from_iterator(
        iter(sample),
        vocab_size=settings.vocab_size - 1,
        min_frequency=settings.min_frequency,
        show_progress=False,
    )
    if not sample.documents:
        raise DataError(
            "the tokenizer has no text to train on: the curated units have no training documents"
        )
    tokenizer.save_model(str(folder))
    size = tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    # As in GPT-2's file, so that readers of the pair of files find the end token too.
    vocabulary = json.loads((folder / "vocab.json").read_bytes()) | {END_OF_TEXT: size}
    _write_vocabulary(folder / "vocab.json", vocabulary)
    write_names(folder, dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT))
    return {
        "vocabulary_asked_for": settings.vocab_size,
        "sample_documents": sample.documents,
        "sample_bytes": sample.bytes,
    }


class _Sample:
    """Texts of every n-th document, n such that about `size` bytes come together, long ones in pieces."""

    def __init__(self, files: Sequence[Path], characters: int, size: int):
        self.files = files
        self.share = min(1.0, size / max(characters, 1))
        self.documents = 0
        self.bytes = 0

    def __iter__(self) -> Iterator[str]:
        credit = 0.0
        for file in self.files:
            for document in read_documents(file):
                credit += self.share
                if credit >= 1:
                    credit -= 1
                    self.documents += 1
                    self.bytes += len(document["text"].encode())
                    yield from _pieces(document["text"])


def _pieces(text: str) -> Iterator[str]:
    """The text, cut before spaces: words stay whole, but for those longer than a piece."""
    start = 0
    while len(text) - start > _PIECE:
        end = text.rfind(" ", start + 1, start + _PIECE)
        end = end if end > start else start + _PIECE
        yield text[start:end]
        start = end
    yield text[start:]


def _write_vocabulary(path: Path, vocabulary: dict[str, int]) -> None:
    ordered = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    path.write_text(
        json.dumps(ordered, ensure_ascii=False, separators=(",", ":")), encoding="utf-8"
    )
