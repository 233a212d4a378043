"""A tokenizer as one thing, whatever files it came in: the content of a Hugging Face tokenizer.json.

Understood are tokenizer.json, GPT-2's vocab.json with merges.txt, and a SentencePiece BPE model with byte
fallback (tokenizer.model), looked for in this order. Which tokens begin, end and pad documents is read
from tokenizer_config.json or special_tokens_map.json; without these, from the SentencePiece model, or
from the names that GPT-2 and LLaMA gave theirs.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers.implementations import ByteLevelBPETokenizer

from data_prep.errors import ConfigError
from data_prep.files import read_json
from data_prep.tokenizer.sentencepiece_model import from_sentencepiece, special_names

END_OF_TEXT = "<|endoftext|>"
NAMES = ("bos_token", "eos_token", "pad_token")
# (begin, end) of tokenizers that come without a config: GPT-2's and LLaMA's.
KNOWN_SPECIALS = ((END_OF_TEXT, END_OF_TEXT), ("<s>", "</s>"))


@dataclass(frozen=True)
class TokenizerDefinition:
    """`content` is a parsed tokenizer.json; begin, end and pad are token texts."""

    content: dict[str, Any]
    begin: str | None
    end: str
    pad: str | None

    def vocabulary(self) -> dict[str, int]:
        """Token text to id, added tokens included."""
        vocabulary = self.content["model"]["vocab"]
        if isinstance(vocabulary, list):  # Unigram: [text, score] in the order of ids
            vocabulary = {text: index for index, (text, _) in enumerate(vocabulary)}
        return vocabulary | {token["content"]: token["id"] for token in self.added_tokens()}

    def added_tokens(self) -> list[dict[str, Any]]:
        return self.content.get("added_tokens") or []

    def special_tokens(self) -> dict[str, int]:
        """Text and id of the tokens that never come from text.

        The pad token is among them only if it is marked so: padding is known by its position.
        """
        vocabulary = self.vocabulary()
        named = {token for token in (self.begin, self.end) if token is not None}
        special = {token["content"] for token in self.added_tokens() if token["special"]}
        return {token: vocabulary[token] for token in sorted(named | special)}


def read_definition(folder: Path) -> TokenizerDefinition:
    """The tokenizer in `folder`; raises ConfigError where there is none that is understood."""
    content = _read_content(folder)
    # A tokenizer.json can ask for cut or filled output, and for random merges.
    content |= {"truncation": None, "padding": None}
    content["model"]["dropout"] = None
    vocabulary = TokenizerDefinition(content, None, "", None).vocabulary()
    names = _names(folder) or _known_names(folder, vocabulary)
    for key, name in names.items():
        if name is not None and name not in vocabulary:
            raise ConfigError(
                f"{folder}: tokenizer_config.json: {key} is {name!r}, which is not in the vocabulary"
            )
    end = names.get("eos_token")
    if end is None:
        raise ConfigError(
            f"{folder}: no end token is named; write eos_token (and bos_token, where there is one) "
            "into its tokenizer_config.json"
        )
    return TokenizerDefinition(content, names.get("bos_token"), end, names.get("pad_token"))


def _read_content(folder: Path) -> dict[str, Any]:
    whole, model = folder / "tokenizer.json", folder / "tokenizer.model"
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    try:
        if whole.is_file():
            return read_json(whole)
        if vocabulary.is_file() and merges.is_file():
            return byte_level_content(vocabulary, merges)
    except ValueError as error:
        raise ConfigError(f"{folder}: its tokenizer is not readable as JSON ({error})") from error
    if model.is_file():
        return from_sentencepiece(model)
    raise ConfigError(
        f"{folder}: no tokenizer there; expected tokenizer.json, vocab.json with merges.txt, or "
        "tokenizer.model"
    )


def byte_level_content(vocabulary: Path, merges: Path) -> dict[str, Any]:
    """tokenizer.json's content for GPT-2's pair of files."""
    tokenizer = ByteLevelBPETokenizer(
        str(vocabulary), str(merges), add_prefix_space=False, trim_offsets=True
    )
    if END_OF_TEXT in read_json(vocabulary):
        tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return json.loads(tokenizer._tokenizer.to_str())


def _names(folder: Path) -> dict[str, str | None]:
    """What the tokenizer's config files say; empty where they name no token."""
    names: dict[str, str | None] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / file
        try:
            values = read_json(path) if path.is_file() else {}
        except ValueError as error:
            raise ConfigError(f"{path}: not readable as JSON ({error})") from error
        for key in NAMES:
            if key in values:
                value = values[key]
                names[key] = value["content"] if isinstance(value, dict) else value
    return names


def _known_names(folder: Path, vocabulary: dict[str, int]) -> dict[str, str | None]:
    if (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file():
        return special_names(folder / "tokenizer.model")
    for begin, end in KNOWN_SPECIALS:
        if begin in vocabulary and end in vocabulary:
            return {"bos_token": begin, "eos_token": end}
    return {}
