"""Extends a SentencePiece BPE, such as LLaMA's, with further pieces; the base's ids stay what they are.

Pieces come from another SentencePiece model (as in Chinese-LLaMA-Alpaca, arXiv:2304.08177), are learnt on
the corpus, or both, in this order. They rank below all of the base's own, in the other model's order: there
they ranked above. So what the base merges, it still merges.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sentencepiece import sentencepiece_model_pb2 as proto

from data_prep.config import ExtendTokenizer
from data_prep.errors import ConfigError, DataError
from data_prep.tokenizer.continued_bpe import (
    count_words,
    learn_characters,
    learn_merges,
    without_dummy_prefix,
)
from data_prep.tokenizer.definition import read_definition
from data_prep.tokenizer.encode import load_encoder
from data_prep.tokenizer.existing import complete_tokenizer
from data_prep.tokenizer.extension import (
    EXTENSION_FILE,
    Extension,
    parse_extension,
    write_extension,
)
from data_prep.tokenizer.fingerprint import SPACE_PIECE
from data_prep.tokenizer.sample import Sample
from data_prep.tokenizer.sentencepiece_model import check_supported, read_sentencepiece

MODEL_FILE = "tokenizer.model"
# Files of the base's folder that say what an extension does not change.
NAMES = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
CHECKED_TEXTS = 256
CHECKED_CHARACTERS = 4096
Piece = proto.ModelProto.SentencePiece  # type: ignore[attr-defined]


def model_file(path: Path, field: str) -> Path:
    """The SentencePiece model that a folder or a file is; ConfigError where there is none."""
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(
            f"{field}: found no SentencePiece model at {file}; give its file, or a folder with {MODEL_FILE}"
        )
    return file


def base_files(path: Path) -> list[Path]:
    """Files of the base that determine the extended tokenizer."""
    file = model_file(path, "tokenizer.extend.path")
    names = [path / name for name in NAMES if path.is_dir()]
    return [file, *(name for name in names if name.is_file())]


def read_base(settings: ExtendTokenizer) -> Any:
    """The base's model; raises ConfigError where it, or the model whose pieces are added, cannot be used."""
    file = model_file(settings.path, "tokenizer.extend.path")
    base = read_sentencepiece(file)
    check_supported(file, base)
    if settings.path.is_dir():
        _check_same_ids(settings.path, base)
    if settings.pieces:
        read_pieces(settings.pieces)
    return base


def read_pieces(path: Path) -> Any:
    """The model whose pieces are added; raises ConfigError where there is none."""
    return read_sentencepiece(model_file(path, "tokenizer.extend.pieces"))


def base_of(folder: Path, target: Path) -> bool:
    """Write the tokenizer that the one in `folder` extends into `target`; False where it extends none."""
    if not (folder / EXTENSION_FILE).is_file():
        return False
    extension = parse_extension((folder / EXTENSION_FILE).read_bytes(), folder / EXTENSION_FILE)
    model = read_sentencepiece(folder / MODEL_FILE)
    del model.pieces[extension.base_size :]
    (target / MODEL_FILE).write_bytes(model.SerializeToString())
    for name in NAMES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    return True


def extend_tokenizer(settings: ExtendTokenizer, sample: Sample, folder: Path) -> dict[str, int]:
    """Write the extended tokenizer into `folder`; returns counts.

    Raises ConfigError where the base is of another kind, or where the result would not give the same ids in
    sentencepiece and in tokenizers on the corpus; DataError where nothing could be added.
    """
    base = read_base(settings)
    base_file, *names = base_files(settings.path)
    shutil.copyfile(base_file, folder / MODEL_FILE)
    for path in names:
        shutil.copyfile(path, folder / path.name)
    # The folder's own tokenizer.json may differ in what the fingerprint sees, as transformers' conversions do;
    # a model there is known by it.
    own = settings.path if settings.path.is_dir() else folder
    base_fingerprint = load_encoder(own).fingerprint
    checked: list[str] = []
    words = count_words(_remembered(sample, checked))
    added = _Added(base)
    if settings.pieces:
        added.add(_pieces_of(read_pieces(settings.pieces)))
    taken = added.number
    if settings.new_pieces:
        learnt = learn_characters(
            added.model, words, settings.min_frequency, settings.character_coverage
        )
        added.add(learnt[: settings.new_pieces])
        left = settings.new_pieces - (added.number - taken)
        # Some may turn out to be unreachable; twice as many leave enough.
        merges = learn_merges(added.model, words, 2 * left, settings.min_frequency) if left else []
        added.add(merges, left)
    if not added.number:
        raise DataError(
            f"tokenizer.extend: nothing to add to {settings.path}: it has all of the pieces, or no pair occurs "
            f"{settings.min_frequency} times in the corpus"
        )
    (folder / MODEL_FILE).write_bytes(added.model.SerializeToString())
    complete_tokenizer(folder, checked)
    write_extension(folder, Extension(len(base.pieces), base_fingerprint, added.old_ids()))
    return sample.counts() | {
        "base_size": len(base.pieces),
        "new_pieces_asked_for": settings.new_pieces,
        "taken": taken,
        "learnt": added.number - taken,
        "unreachable": added.unreachable,
    }


class _Added:
    """A model with pieces added to it, each ranked below all before; `unreachable` counts those left out."""

    def __init__(self, base: Any):
        self.base = base
        self.model = proto.ModelProto()  # type: ignore[attr-defined]
        self.model.CopyFrom(base)
        self.unreachable = 0

    @property
    def number(self) -> int:
        return len(self.model.pieces) - len(self.base.pieces)

    def add(self, texts: Sequence[str], number: int | None = None) -> None:
        """Add the pieces, the first `number` of them, that the model does not have and that text can give."""
        known = {piece.piece for piece in self.model.pieces}
        new = [text for text in dict.fromkeys(texts) if text not in known]
        # sentencepiece merges characters that are no pieces; other readers of its models do not.
        letters = known | set(new)
        spelt = [text for text in new if all(character in letters for character in text)]
        reachable = _reachable(_with_pieces(self.model, spelt), len(known), spelt)
        chosen = reachable[:number]
        tried = new.index(chosen[-1]) + 1 if number and len(chosen) == number else len(new)
        self.unreachable += tried - len(chosen)
        self.model = _with_pieces(self.model, chosen)

    def old_ids(self) -> list[list[int]]:
        """The base's ids of every added piece's text."""
        added = self.model.pieces[len(self.base.pieces) :]
        texts = [piece.piece.replace(SPACE_PIECE, " ") for piece in added]
        return without_dummy_prefix(self.base).encode(texts)


def _with_pieces(model: Any, texts: Sequence[str]) -> Any:
    extended = proto.ModelProto()  # type: ignore[attr-defined]
    extended.CopyFrom(model)
    lowest = min(piece.score for piece in model.pieces)
    for text, score in zip(texts, _scores_below(lowest), strict=False):
        extended.pieces.add(piece=text, score=score, type=Piece.NORMAL)
    extended.trainer_spec.vocab_size = len(extended.pieces)
    return extended


def _scores_below(lowest: float) -> Iterator[float]:
    """Scores as float32, which models hold: by 1 where that makes a difference (LLaMA's lowest is -1e9)."""
    score = np.float32(lowest)
    while True:
        score = min(score - np.float32(1), np.nextafter(score, np.float32(-np.inf)))
        yield float(score)


def _reachable(model: Any, first: int, texts: Sequence[str]) -> list[str]:
    """Of the pieces from id `first` on, those that encoding their own text gives.

    What merges inside a text's span does not depend on what is around it, so no other text gives the rest.
    """
    encoded = without_dummy_prefix(model).encode([text.replace(SPACE_PIECE, " ") for text in texts])
    return [
        text
        for index, (text, ids) in enumerate(zip(texts, encoded, strict=True), start=first)
        if ids == [index]
    ]


def _pieces_of(other: Any) -> list[str]:
    """Ordinary pieces of a model, best first."""
    ordinary = [piece for piece in other.pieces if piece.type == Piece.NORMAL]
    return [piece.piece for piece in sorted(ordinary, key=lambda piece: -piece.score)]


def _check_same_ids(folder: Path, base: Any) -> None:
    pieces = {piece.piece: index for index, piece in enumerate(base.pieces)}
    whole = read_definition(folder).vocabulary()
    if whole != pieces:
        raise ConfigError(
            f"tokenizer.extend.path: {folder} has {len(whole)} entries, its {MODEL_FILE} other ones "
            f"({len(pieces)}): new pieces would take their ids; give a folder without added tokens"
        )


def _remembered(sample: Iterable[str], checked: list[str]) -> Iterator[str]:
    for text in sample:
        if len(checked) < CHECKED_TEXTS:
            checked.append(text[:CHECKED_CHARACTERS])
        yield text
