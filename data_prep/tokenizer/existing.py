"""Takes a tokenizer that exists, so that AutoTokenizer gives, offline, the ids that stand in the shards."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from data_prep.errors import ConfigError
from data_prep.files import read_json, write_json
from data_prep.tokenizer.definition import read_definition
from data_prep.tokenizer.encode import load_encoder
from data_prep.tokenizer.extension import EXTENSION_FILE
from data_prep.tokenizer.fingerprint import PROBE

FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    EXTENSION_FILE,
)


def copy_tokenizer(origin: Path, folder: Path) -> None:
    """Copy a tokenizer's files, and complete them so that AutoTokenizer gives the ids of the shards.

    Raises ConfigError where there is no tokenizer that this project understands, or where a
    SentencePiece model cannot be written as a tokenizer.json of the same ids.
    """
    for name in FILES:
        if (origin / name).is_file():
            shutil.copyfile(origin / name, folder / name)
    complete_tokenizer(folder)


def complete_tokenizer(folder: Path, texts: Sequence[str] = ()) -> None:
    """Write tokenizer.json and the names of special tokens beside the files that are in `folder`.

    Raises ConfigError where a SentencePiece model cannot be written as a tokenizer.json of the same ids,
    on `texts` and on texts that tell tokenizers apart.
    """
    definition = read_definition(folder)
    if not (folder / "tokenizer.json").exists():
        content = json.dumps(definition.content, ensure_ascii=False, separators=(",", ":"))
        (folder / "tokenizer.json").write_text(content, encoding="utf-8")
        if not (folder / "vocab.json").exists():
            _check_against_sentencepiece(folder, texts)
    names = {
        "bos_token": definition.begin,
        "eos_token": definition.end,
        "pad_token": definition.pad,
        "unk_token": definition.content["model"].get("unk_token"),
    }
    write_names(folder, names)


def _check_against_sentencepiece(folder: Path, texts: Sequence[str]) -> None:
    model = folder / "tokenizer.model"
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    encoder = load_encoder(folder)
    sample = [PROBE, f"  {PROBE}", " ", "a", *texts]
    expected = processor.encode(sample)
    for fast in (True, False):
        for text, ids, wanted in zip(sample, encoder.encode(sample, fast), expected, strict=True):
            if ids.tolist() != wanted:
                raise ConfigError(
                    f"{model}: cannot be written as a tokenizer.json that gives SentencePiece's ids (they "
                    f"differ on {text[:80]!r}); give the tokenizer.json that its publisher offers"
                )


def write_names(folder: Path, names: dict[str, str | None]) -> None:
    """Write both files that name special tokens, keeping what else a copied config says."""
    present = {key: token for key, token in names.items() if token is not None}
    path = folder / "tokenizer_config.json"
    config = read_json(path) if path.exists() else {"clean_up_tokenization_spaces": False}
    # Code from elsewhere is never run, and this class takes tokenizer.json as it is: transformers'
    # LlamaTokenizer builds its own from it, with other ids for spaces after a line end.
    config.pop("auto_map", None)
    write_json(path, config | present | {"tokenizer_class": "PreTrainedTokenizerFast"})
    if not (folder / "special_tokens_map.json").exists():
        write_json(folder / "special_tokens_map.json", present)
