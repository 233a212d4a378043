"""Learns further pieces for a SentencePiece BPE by going on with its own merges.

Text is cut into words, each word into the base's pieces, and byte-pair encoding (Sennrich et al. 2016,
arXiv:1508.07909) continues from these: every base piece becomes one character, and tokenizers' trainer
merges the characters. Learnt pieces rank below the base's, so a text is first cut as before, and what
can then be merged is. Characters that the base writes in bytes (most of Chinese in LLaMA's) come first:
those that occur often enough become pieces, the others end a word, because bytes are never merged.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import regex
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from data_prep.tokenizer.fingerprint import BYTE_PIECE, SPACE_PIECE

# Words as LLaMA's trainer_spec has them (split_digits, split_by_whitespace; kana go with Han, as in
# sentencepiece): nothing learnt crosses their ends, nor touches a digit. Unlike there, other scripts may mix: "TNFα" is one.
_HAN = r"\p{Han}\p{Hiragana}\p{Katakana}ー"
_WORD = regex.compile(
    rf"{SPACE_PIECE}?(?:[{_HAN}]+|[[\p{{L}}\p{{M}}]--[{_HAN}]]+"
    rf"|[^\p{{L}}\p{{M}}\p{{Nd}}\s{SPACE_PIECE}]+)",
    regex.V1,
)
# The two planes for private use, which no trainer takes for anything: 131,072 characters.
_FIRST_PRIVATE = 0xF0000
_REPEATED = 1 << 10  # of one word at once for the trainer, which counts words itself
_WORDS_AT_ONCE = 1 << 16


def without_dummy_prefix(model: Any) -> sentencepiece.SentencePieceProcessor:
    """A processor of the model that takes a text as it is, with nothing before it."""
    copy = proto.ModelProto()  # type: ignore[attr-defined]
    copy.CopyFrom(model)
    copy.normalizer_spec.add_dummy_prefix = False
    return sentencepiece.SentencePieceProcessor(model_proto=copy.SerializeToString())


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often every word occurs; words that follow a space, or begin a text, begin with "▁"."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_WORD.findall(SPACE_PIECE + text.replace(" ", SPACE_PIECE)))
    return counts


def learn_characters(
    model: Any, words: Counter[str], min_frequency: int, coverage: float
) -> list[str]:
    """Characters that the model has only as bytes and that occur often enough, most frequent first.

    As many as it takes for the share `coverage` of all characters to be pieces, as sentencepiece's
    character_coverage; the rarest would take the place of whole words.
    """
    known = {piece.piece for piece in model.pieces}
    counts: Counter[str] = Counter()
    for word, number in words.items():
        for character in word:
            counts[character] += number
    spare = (1 - coverage) * counts.total()
    unknown = [item for item in counts.items() if item[0] not in known]
    rarest_first = sorted(unknown, key=lambda item: (item[1], item[0]))
    left_out = np.cumsum([number for _, number in rarest_first]) <= spare
    chosen = [
        character
        for (character, number), out in zip(rarest_first, left_out, strict=True)
        if number >= min_frequency and not out
    ]
    return chosen[::-1]


def learn_merges(model: Any, words: Counter[str], number: int, min_frequency: int) -> list[str]:
    """At least `number` further pieces in the order in which they are merged, if there are so many.

    None is longer than the model's own trainer allowed, nor in the model already.
    """
    longest = model.trainer_spec.max_sentencepiece_length
    known = {piece.piece for piece in model.pieces}
    mapped = _mapped(model, words)
    asked = number
    while True:
        merges = _train(mapped, asked, min_frequency)
        texts = dict.fromkeys(
            "".join(model.pieces[ord(character) - _FIRST_PRIVATE].piece for character in merge)
            for merge in merges
        )
        found = [text for text in texts if len(text) <= longest and text not in known]
        if len(found) >= number or len(merges) < asked:
            return found
        asked *= 2


def _mapped(model: Any, words: Counter[str]) -> Counter[str]:
    """The words, a private character for every piece, split where the model writes bytes."""
    processor = without_dummy_prefix(model)
    unmerged = {
        index
        for index, piece in enumerate(model.pieces)
        if BYTE_PIECE.fullmatch(piece.piece) or piece.type != proto.ModelProto.SentencePiece.NORMAL  # type: ignore[attr-defined]
    }
    table = {index: _FIRST_PRIVATE + index for index in range(len(model.pieces))}
    table |= dict.fromkeys(unmerged, ord(" "))
    counts: Counter[str] = Counter()
    items = iter(words.items())
    while batch := list(islice(items, _WORDS_AT_ONCE)):
        encoded = processor.encode([word.replace(SPACE_PIECE, " ") for word, _ in batch])
        for ids, (_, times) in zip(encoded, batch, strict=True):
            for part in "".join(chr(table[index]) for index in ids).split(" "):
                if len(part) > 1:
                    counts[part] += times
    return counts


def _train(words: Counter[str], merges: int, min_frequency: int) -> list[str]:
    """The merged words of at most so many merges, in order."""
    alphabet = {character for word in words for character in word}
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + merges, min_frequency=min_frequency, show_progress=False
    )
    tokenizer.train_from_iterator(_repeated(words), trainer)
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    learnt = [token for token in vocabulary if len(token) > 1]
    return sorted(learnt, key=vocabulary.__getitem__)


def _repeated(words: Counter[str]) -> Iterator[str]:
    for word, times in words.items():
        whole, rest = divmod(times, _REPEATED)
        many = " ".join([word] * min(times, _REPEATED))
        yield from (many for _ in range(whole))
        if rest:
            yield " ".join([word] * rest)
