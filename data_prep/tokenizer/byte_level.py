"""Trains a byte-level BPE as BioMedLM's (its tokenize/train_bpe.py)."""

import json
from pathlib import Path

from tokenizers import AddedToken
from tokenizers.implementations import ByteLevelBPETokenizer

from data_prep.config import TrainTokenizer
from data_prep.tokenizer.definition import END_OF_TEXT
from data_prep.tokenizer.existing import write_names
from data_prep.tokenizer.sample import Sample


def train_byte_level(sample: Sample, settings: TrainTokenizer, folder: Path) -> dict[str, int]:
    """Train on the sample and write into `folder`; returns counts.

    Ids: 256 bytes, then merges, then the end token, always last. Where the text has too few pairs that
    occur `min_frequency` times, the vocabulary is smaller than asked for; the counts show it.
    """
    tokenizer = ByteLevelBPETokenizer(add_prefix_space=False, trim_offsets=True)
    tokenizer.train_from_iterator(
        iter(sample),
        vocab_size=settings.vocab_size - 1,
        min_frequency=settings.min_frequency,
        show_progress=False,
    )
    counts = sample.counts()
    tokenizer.save_model(str(folder))
    size = tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    # As in GPT-2's file, so that readers of the pair of files find the end token too.
    vocabulary = json.loads((folder / "vocab.json").read_bytes()) | {END_OF_TEXT: size}
    _write_vocabulary(folder / "vocab.json", vocabulary)
    write_names(folder, dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT))
    return {"vocabulary_asked_for": settings.vocab_size} | counts


def _write_vocabulary(path: Path, vocabulary: dict[str, int]) -> None:
    ordered = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    path.write_text(
        json.dumps(ordered, ensure_ascii=False, separators=(",", ":")), encoding="utf-8"
    )
