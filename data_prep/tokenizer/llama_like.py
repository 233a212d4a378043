"""Trains a SentencePiece BPE with the options that LLaMA's tokenizer.model names in its trainer_spec."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import sentencepiece

from data_prep.config import TrainTokenizer
from data_prep.errors import ConfigError
from data_prep.tokenizer.existing import complete_tokenizer
from data_prep.tokenizer.sample import Sample, pieces

# Bytes; longer sentences are left out by sentencepiece, so ours are cut. A character has at most four.
MAX_SENTENCE_LENGTH = 4192

# LLaMA's trainer_spec and normalizer_spec, where they differ from sentencepiece's own defaults or matter.
OPTIONS: dict[str, Any] = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": True,
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,
    "split_digits": True,
    "split_by_unicode_script": True,
    "max_sentencepiece_length": 16,
    "max_sentence_length": MAX_SENTENCE_LENGTH,
    "input_sentence_size": 200_000_000,
    # What of the corpus is read is chosen before; the bytes must not depend on chance.
    "shuffle_input_sentence": False,
    # LLaMA's is true: too little text is then an error, where byte-level BPE only ends with fewer entries.
    "hard_vocab_limit": False,
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "pad_id": -1,
    # Threads do not change the model (tested), but the number is written into it.
    "num_threads": 1,
    "minloglevel": 2,
}
CHECKED_SENTENCES = 256


def train_llama_like(sample: Sample, settings: TrainTokenizer, folder: Path) -> dict[str, int]:
    """Train on the sample; write tokenizer.model and what else transformers reads; returns counts.

    sentencepiece holds the whole sample in memory.
    """
    model = io.BytesIO()
    checked: list[str] = []
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(sample, checked),
            model_writer=model,
            vocab_size=settings.vocab_size,
            character_coverage=settings.character_coverage,
            **OPTIONS,
        )
    except RuntimeError as error:
        sample.counts()  # there may have been no text at all
        raise ConfigError(
            f"tokenizer.train: sentencepiece refuses it ({' '.join(str(error).split())}); raise "
            "vocab_size, or lower character_coverage"
        ) from error
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    complete_tokenizer(folder, checked)
    return {"vocabulary_asked_for": settings.vocab_size} | sample.counts()


def _sentences(texts: Iterable[str], checked: list[str]) -> Iterator[str]:
    """Lines of the texts, none too long for sentencepiece; the first ones are kept in `checked`."""
    for text in texts:
        for line in text.split("\n"):
            for sentence in pieces(line, MAX_SENTENCE_LENGTH // 4):
                if sentence:
                    if len(checked) < CHECKED_SENTENCES:
                        checked.append(sentence)
                    yield sentence
