"""A SentencePiece BPE model as the content of a Hugging Face tokenizer.json that gives the same ids.

Not what transformers 5 makes of the same file: its conversion merges spaces after line ends and runs of
spaces differently from SentencePiece, with which LLaMA was trained. Here spaces become "▁" before a
merge is tried, merges are ranked by the merged piece's score, and pieces that stand for bytes or control
tokens are never the result of a merge.
"""

import base64
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2 as proto

from data_prep.errors import ConfigError

SPACE = "▁"
ADVICE = "give the tokenizer.json that its publisher offers instead"
Piece = proto.ModelProto.SentencePiece  # type: ignore[attr-defined]


def from_sentencepiece(path: Path) -> dict[str, Any]:
    """The content of a tokenizer.json; raises ConfigError where the model is of another kind."""
    model = read_sentencepiece(path)
    check_supported(path, model)
    vocabulary = {piece.piece: index for index, piece in enumerate(model.pieces)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(model.pieces),
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(model.normalizer_spec)},
        "pre_tokenizer": None,
        "post_processor": _begin_template(model.trainer_spec),
        "decoder": _decoder(model.normalizer_spec.add_dummy_prefix),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": model.trainer_spec.unk_piece,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": _merges(model.pieces, vocabulary),
        },
    }


def read_sentencepiece(path: Path) -> Any:
    """The model as sentencepiece's ModelProto, of any kind; ConfigError where the file is none."""
    model = proto.ModelProto()  # type: ignore[attr-defined]
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ConfigError(f"{path}: not a SentencePiece model; {ADVICE}") from error
    return model


def special_names(path: Path) -> dict[str, str | None]:
    """bos_token, eos_token and pad_token as the model itself names them."""
    model = read_sentencepiece(path)
    spec = model.trainer_spec
    ids = {"bos": spec.bos_id, "eos": spec.eos_id, "pad": spec.pad_id}
    return {
        f"{name}_token": model.pieces[index].piece if index >= 0 else None
        for name, index in ids.items()
    }


def check_supported(path: Path, model: Any) -> None:
    """Raise ConfigError where the model is of a kind that from_sentencepiece does not know."""
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    faults = {
        "is not of the type BPE": trainer.model_type != proto.TrainerSpec.BPE,  # type: ignore[attr-defined]
        "has no byte fallback": not trainer.byte_fallback,
        "does not escape spaces": not normalizer.escape_whitespaces,
        "puts spaces after words": trainer.treat_whitespace_as_suffix,
        "has unused pieces": any(piece.type == Piece.UNUSED for piece in model.pieces),
    }
    for fault, present in faults.items():
        if present:
            raise ConfigError(f"{path}: the SentencePiece model {fault}; {ADVICE}")


def _normalizers(spec: Any) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    if spec.precompiled_charsmap:
        charsmap = base64.b64encode(spec.precompiled_charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if spec.remove_extra_whitespaces:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if spec.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": SPACE})
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    return steps


def _decoder(dummy_prefix: bool) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def _begin_template(spec: Any) -> dict[str, Any] | None:
    """Lets AutoTokenizer begin a text with the begin token, as LLaMA's own code does."""
    if spec.bos_id < 0:
        return None
    begin = {"SpecialToken": {"id": spec.bos_piece, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": kind}} for kind, name in enumerate("AB"))
    token = {"id": spec.bos_piece, "ids": [spec.bos_id], "tokens": [spec.bos_piece]}
    return {
        "type": "TemplateProcessing",
        "single": [begin, first],
        "pair": [begin, first, second],
        "special_tokens": {spec.bos_piece: token},
    }


def _added_tokens(pieces: Any) -> list[dict[str, Any]]:
    special = (Piece.CONTROL, Piece.UNKNOWN)
    return [
        {
            "id": index,
            "content": piece.piece,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": piece.type in special,
        }
        for index, piece in enumerate(pieces)
        if piece.type in (*special, Piece.USER_DEFINED)
    ]


def _merges(pieces: Any, vocabulary: dict[str, int]) -> list[list[str]]:
    """Every way to put a piece together of two others, best score first."""
    ranked = []
    for piece in pieces:
        if piece.type != Piece.NORMAL:
            continue
        text = piece.piece
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in vocabulary and right in vocabulary:
                ranked.append((-piece.score, vocabulary[text], cut, left, right))
    ranked.sort()
    return [[left, right] for *_, left, right in ranked]
