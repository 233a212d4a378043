"""How many tokens tokenizers make of a corpus: a word, a character, a byte, by source and language.

Measured on a sample that depends on nothing but the corpus: of each source the first training documents of up
to 64 curated units, taken evenly over all, about 4 million characters together.
A word is what data_prep/curate/words.py says: in scripts without spaces each character.
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.curate.words import words
from data_prep.documents import Document, read_documents
from data_prep.errors import ConfigError, DataError
from data_prep.tokenizer.domain_words import domain_words, whole_words
from data_prep.tokenizer.encode import Encoder, load_encoder
from data_prep.tokenizer.extend import base_of
from data_prep.units import UnitResult, finished, source_of

SAMPLE_CHARACTERS = 4_000_000  # of each source
SAMPLE_UNITS = 64
TRAIN_FILE = "train.jsonl.zst"
CORPUS = "corpus"  # the name of its own tokenizer
UNKNOWN = "unknown"
EXAMPLES = 20


@dataclass
class Group:
    """Totals over the sampled documents of one source and language."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    words: int = 0


def measure(output: Path, folders: Sequence[Path]) -> dict[str, Any]:
    """Fertility of the corpus's tokenizer and of those in `folders`, as fertility.json holds it.

    Before an extended tokenizer comes its base. Raises ConfigError where `output` is no corpus or a folder no
    tokenizer, DataError where the corpus has no documents yet.
    """
    sampled = _sample(output)
    texts: dict[tuple[str, str], list[str]] = defaultdict(list)
    for document in sampled:
        language = document["metadata"]["language"] or UNKNOWN
        texts[document["source"], language].append(document["text"])
    groups = {key: _totals(texts[key]) for key in sorted(texts)}
    origin, field = domain_words(sampled)
    encoders = _encoders(output, folders)
    whole = {name: whole_words(encoder, field) for name, encoder in encoders.items()}
    own = set(whole.get(CORPUS, []))
    tokenizers = []
    for name, encoder in encoders.items():
        became = [word for word in field if word in own.difference(whole[name])]
        tokenizers.append(
            {
                "name": name,
                "vocabulary_size": encoder.vocabulary_size,
                "fingerprint": encoder.fingerprint,
                "whole_words": len(whole[name]),
                "whole_share": len(whole[name]) / len(field) if field else None,
                "whole_in_the_corpus_only": became[:EXAMPLES],
                "groups": [
                    _rates(encoder, source, language, texts[source, language], group)
                    for (source, language), group in groups.items()
                ],
            }
        )
    return {
        "domain_words": {"origin": origin, "number": len(field)},
        "sample": [
            {"source": source, "language": language} | asdict(group)
            for (source, language), group in groups.items()
        ],
        "tokenizers": tokenizers,
    }


def _rates(
    encoder: Encoder, source: str, language: str, texts: list[str], group: Group
) -> dict[str, Any]:
    tokens = len(encoder.encode(texts, encoder.agrees(texts[:64])).ids)
    return {
        "source": source,
        "language": language,
        "tokens": tokens,
        "tokens_per_word": tokens / group.words if group.words else None,
        "tokens_per_character": tokens / group.characters if group.characters else None,
        "bytes_per_token": group.bytes / tokens if tokens else None,
    }


def _totals(texts: list[str]) -> Group:
    return Group(
        documents=len(texts),
        characters=sum(map(len, texts)),
        bytes=sum(len(text.encode()) for text in texts),
        words=sum(len(words(text)) for text in texts),
    )


def _sample(output: Path) -> list[Document]:
    by_source: dict[str, list[UnitResult]] = defaultdict(list)
    for unit in finished(output / "curate"):
        if TRAIN_FILE in unit.files:
            by_source[source_of(unit.name)].append(unit)
    documents = [one for source in sorted(by_source) for one in _of_source(by_source[source])]
    if not documents:
        raise DataError(
            f"{output}: found no curated documents; give a corpus's output folder, and run the stage curate "
            "first"
        )
    return documents


def _of_source(units: list[UnitResult]) -> Iterator[Document]:
    number = min(len(units), SAMPLE_UNITS)
    for place in range(number):
        left = SAMPLE_CHARACTERS // number
        for document in read_documents(units[place * len(units) // number].folder / TRAIN_FILE):
            yield document
            left -= len(document["text"])
            if left <= 0:
                break


def _encoders(output: Path, folders: Sequence[Path]) -> dict[str, Encoder]:
    own = [(CORPUS, unit.folder) for unit in finished(output / "tokenizer")]
    named = [(str(folder), folder) for folder in folders]
    if not own + named:
        raise ConfigError(
            f"{output}: has no tokenizer yet; run the stage tokenizer, or name tokenizer folders"
        )
    encoders: dict[str, Encoder] = {}
    for name, folder in [*named, *own]:
        encoder = load_encoder(folder)
        with tempfile.TemporaryDirectory() as base:
            if base_of(folder, Path(base)):
                encoders[f"{name} (base)"] = load_encoder(Path(base))
        encoders[name] = encoder
    return encoders
