"""Text to token ids, fast and exact.

gigatoken encodes where it supports the tokenizer: on one core some hundred MB/s, against a few of
Hugging Face's tokenizers. That it gives the same ids is checked when an encoder is loaded; `agrees` does so
on a sample of every unit, which is encoded with tokenizers where it does not. No unit's sample decides
about another unit: its bytes never depend on what else a process did.

Special tokens are never parsed from text: a document about "</s>" holds no end of a document. Nothing
is added either; packing adds begin and end tokens.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import gigatoken
import numpy as np
import orjson
from tokenizers import Tokenizer

from data_prep.errors import DataError
from data_prep.tokenizer.definition import TokenizerDefinition, read_definition
from data_prep.tokenizer.fingerprint import PROBE, fingerprint

logger = logging.getLogger(__name__)

CHECKED_CHARACTERS = 4096  # of each text in a sample; tokenizers is slow on long ones


@dataclass(frozen=True, eq=False)
class EncodedTexts:
    """The ids of texts: ids uint32, flat; text k is ids[starts[k]:starts[k + 1]]."""

    ids: np.ndarray
    starts: np.ndarray  # int64 (texts + 1,)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.ids[self.starts[index] : self.starts[index + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        ends = self.starts.tolist()
        return (self.ids[begin:end] for begin, end in pairwise(ends))


@dataclass(frozen=True)
class TokenizerFacts:
    """What shards say of the tokenizer that encoded them.

    `begin_id` is None where it has no begin token, `pad_id` the end token's where it has no pad token of its own.
    """

    vocabulary_size: int  # one more than the highest id
    begin_id: int | None
    end_id: int
    pad_id: int
    fingerprint: str


def tokenizer_facts(definition: TokenizerDefinition, fingerprint: str) -> TokenizerFacts:
    special, vocabulary = definition.special_tokens(), definition.vocabulary()
    end = special[definition.end]
    return TokenizerFacts(
        vocabulary_size=max(vocabulary.values()) + 1,
        begin_id=None if definition.begin is None else special[definition.begin],
        end_id=end,
        pad_id=end if definition.pad is None else vocabulary[definition.pad],
        fingerprint=fingerprint,
    )


def load_encoder(folder: Path) -> "Encoder":
    """The encoder of a tokenizer's folder; raises ConfigError where there is no tokenizer in it."""
    return Encoder(read_definition(folder), str(folder))


class Encoder:
    """Encodes and decodes with one tokenizer; its ids are as in TokenizerFacts."""

    def __init__(self, definition: TokenizerDefinition, name: str):
        self.name = name
        special = definition.special_tokens()
        content = without_special_merges(definition.content, set(special))
        self._reference = Tokenizer.from_buffer(_as_json(content))
        self._reference.encode_special_tokens = True
        self._fast = _load_gigatoken(content)
        self._check_special(special, content["model"].get("unk_token"))
        if not self.agrees([PROBE, *special]):
            self._fast = None
        self.fingerprint = fingerprint(definition, self._encode_reference([PROBE]).ids.tolist())
        self.facts = tokenizer_facts(definition, self.fingerprint)
        self.vocabulary_size, self.begin_id = self.facts.vocabulary_size, self.facts.begin_id
        self.end_id, self.pad_id = self.facts.end_id, self.facts.pad_id

    def encode(self, texts: Sequence[str], fast: bool = True) -> EncodedTexts:
        """The ids of each text, nothing added, nothing cut; uses one thread with gigatoken.

        `fast` is what `agrees` says of a sample of the texts.
        """
        if self._fast is None or not fast:
            return self._encode_reference(texts)
        # One thread: stages run a process for every core.
        lists = self._fast.encode_batch(list(texts), parallel=False).layout
        starts = np.asarray(lists.offsets.data, np.int64)
        return EncodedTexts(np.asarray(lists.content.data, np.uint32), starts)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of the ids, special tokens by name; bytes that are no UTF-8 become U+FFFD."""
        return self._reference.decode([int(index) for index in ids], skip_special_tokens=False)

    def agrees(self, texts: Sequence[str]) -> bool:
        """Whether gigatoken encodes the texts as tokenizers does; says so where it does not."""
        if self._fast is None:
            return False
        sample = [text[:CHECKED_CHARACTERS] for text in texts]
        for text, fast, reference in zip(
            sample, self.encode(sample), self._encode_reference(sample), strict=True
        ):
            if not np.array_equal(fast, reference):
                logger.warning(
                    "tokenizer %s: gigatoken and tokenizers differ on %r; such texts are encoded with "
                    "tokenizers, which is exact and slower",
                    self.name,
                    text[:80],
                )
                return False
        return True

    def _encode_reference(self, texts: Sequence[str]) -> EncodedTexts:
        encodings = self._reference.encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [np.array(encoding.ids, np.uint32) for encoding in encodings]
        starts = np.cumsum([0, *(len(part) for part in ids)])
        return EncodedTexts(np.concatenate([np.zeros(0, np.uint32), *ids]), starts)

    def _check_special(self, special: dict[str, int], unknown: str | None) -> None:
        for (token, index), ids in zip(
            special.items(), self._encode_reference(list(special)), strict=True
        ):
            if index in ids and token != unknown:
                raise DataError(
                    f"tokenizer {self.name}: the text {token!r} is encoded as the special token "
                    f"{index}, which text must never give; mark it as special in tokenizer.json, or take another "
                    "tokenizer if it is"
                )


def without_special_merges(content: dict[str, Any], special: set[str]) -> dict[str, Any]:
    """A tokenizer.json's content whose merges never make a special token out of its letters."""
    model = content["model"]
    if "merges" not in model:
        return content
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    kept = [pair for pair in pairs if "".join(pair) not in special]
    return content | {"model": model | {"merges": kept}}


def _as_json(content: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(content)  # twenty times as fast as json, and a process loads many
    except TypeError:  # half a surrogate pair, which orjson does not write
        return json.dumps(content).encode()


def _load_gigatoken(content: dict[str, Any]) -> gigatoken.Tokenizer | None:
    # gigatoken has no switch against parsing special tokens; it does not parse what it does not know.
    ordinary = [token for token in content.get("added_tokens") or [] if not token["special"]]
    try:
        return gigatoken.Tokenizer.from_json(_as_json(content | {"added_tokens": ordinary}))
    except Exception as error:  # whatever it cannot do, tokenizers can
        logger.info("gigatoken does not support this tokenizer (%s)", error)
        return None
