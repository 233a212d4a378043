"""The words of a corpus's own field: of its MeSH headings, or its most frequent long words."""

import re
from collections import Counter
from collections.abc import Iterable

from data_prep.documents import Document
from data_prep.tokenizer.encode import Encoder

WORDS = 1000  # of a field, the most frequent ones
# Letters of scripts with spaces; a word of Chinese has no such bounds in a text.
_LETTERS = re.compile(r"[^\W\d_\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]+")
_SHORTEST_OF_HEADING = 4  # letters: leaves out "and", "in", "of"
_SHORTEST_OF_TEXT = 9  # letters: of English, the most frequent ones are then terms


def domain_words(documents: Iterable[Document]) -> tuple[str, list[str]]:
    """("mesh" or "long words", words in lower case, most frequent first, ties in alphabetical order)."""
    headings: Counter[str] = Counter()
    long: Counter[str] = Counter()
    for document in documents:
        mesh = [word for heading in document["metadata"]["mesh"] for word in _words(heading)]
        headings.update(word for word in mesh if len(word) >= _SHORTEST_OF_HEADING)
        long.update(word for word in _words(document["text"]) if len(word) >= _SHORTEST_OF_TEXT)
    counts = headings or long
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return "mesh" if headings else "long words", [word for word, _ in ranked[:WORDS]]


def whole_words(encoder: Encoder, words: list[str]) -> list[str]:
    """Those of the words that are one token inside a text, that is behind a space."""
    before, *ids = encoder.encode(["the", *(f"the {word}" for word in words)])
    return [word for word, tokens in zip(words, ids, strict=True) if len(tokens) == len(before) + 1]


def _words(text: str) -> list[str]:
    return _LETTERS.findall(text.lower())
