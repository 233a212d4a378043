"""Which documents share a run of words with a question, found by hashes and confirmed word by word.

A run is 13 words, as in GPT-3 (Brown et al. 2020, appendix C), of the words that words.py makes. A text that is
shorter counts as one run of its own length; below 8 words, the least that GPT-3 uses because shorter
runs meet by chance, it is not looked for. Unlike GPT-3, which forgives runs that more than 10 documents
have, every run counts: the report shows which runs were met how often.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.curate.benchmarks import Question
from data_prep.curate.words import hash_texts, hash_words, run_hashes, words

SHORTEST = 8  # words; GPT-3's lower bound
_SLOTS_PER_RUN = 16  # of the filter before the search: one run in 16 passes by chance
_MOST_SLOTS_LOG2 = 26  # 64 MB


@dataclass(frozen=True)
class Match:
    """A document and a question that share runs, `words` (in `length`) being the longest shared stretch."""

    document: int
    question: int
    runs: int
    length: int
    words: str


@dataclass(frozen=True)
class _Text:
    question: int
    words: list[str]


class Overlap:
    """Looks for the questions' runs in documents. About 70 bytes a word of the questions."""

    def __init__(self, questions: Sequence[Question], length: int):
        """`length` words make a run."""
        shortest = min(SHORTEST, length)
        split = [
            _Text(number, words(text))
            for number, question in enumerate(questions)
            for text in question.texts
        ]
        self._texts = [text for text in split if len(text.words) >= shortest]
        self.checked = np.zeros(len(questions), dtype=bool)
        """Marks the questions with a text long enough to be looked for."""
        self.checked[[text.question for text in self._texts]] = True
        lengths = sorted({min(len(text.words), length) for text in self._texts})
        self._runs = [_Runs(self._texts, one, length) for one in lengths]

    def matches(self, documents: Sequence[str]) -> list[Match]:
        """Of some documents those that share a run with a question, by document and question."""
        hashes, offsets = hash_texts(documents)
        hits: dict[int, list[_Hit]] = {}
        for runs in self._runs:
            for hit in runs.find(hashes):
                document = int(np.searchsorted(offsets, hit.place, side="right")) - 1
                hits.setdefault(document, []).append(hit)
        found: list[Match] = []
        for document, mine in sorted(hits.items()):
            found += self._confirm(
                document, words(documents[document]), int(offsets[document]), mine
            )
        return found

    def _confirm(
        self, document: int, split: list[str], offset: int, hits: Sequence[_Hit]
    ) -> Iterator[Match]:
        """The matches of a document whose words `split` begin at `offset` among those hashed."""
        shared: dict[int, set[tuple[int, int]]] = {}
        for hit in hits:
            text, first = self._texts[hit.text], hit.place - offset
            if split[first : first + hit.length] == text.words[hit.start : hit.start + hit.length]:
                shared.setdefault(text.question, set()).add((first, first + hit.length))
        for question, runs in sorted(shared.items()):
            begin, end = longest_stretch(sorted(runs))
            yield Match(document, question, len(runs), end - begin, " ".join(split[begin:end]))


@dataclass(frozen=True)
class _Hit:
    """A run of `length` words whose hash is that of a text's run: `place` among the hashed words."""

    place: int
    length: int
    text: int
    start: int


class _Runs:
    """The runs of one length, sorted by hash."""

    def __init__(self, texts: Sequence[_Text], length: int, longest: int):
        """Of texts of fewer than `longest` words only those with just `length` have a run here."""
        mine = [
            number
            for number, text in enumerate(texts)
            if (len(text.words) >= longest if length == longest else len(text.words) == length)
        ]
        parts = [run_hashes(hash_words(texts[number].words), length) for number in mine]
        sizes = [len(part) for part in parts]
        hashes = np.concatenate(parts)
        order = np.argsort(hashes, kind="stable")
        self._length = length
        self._hashes = hashes[order]
        self._texts = np.repeat(np.array(mine), sizes)[order]
        self._starts = np.concatenate([np.arange(size) for size in sizes])[order]
        slots = min((len(hashes) * _SLOTS_PER_RUN - 1).bit_length(), _MOST_SLOTS_LOG2)
        self._shift = np.uint64(64 - slots)
        self._filter = np.zeros(1 << slots, dtype=bool)
        self._filter[hashes >> self._shift] = True

    def find(self, hashes: np.ndarray) -> Iterator[_Hit]:
        """Hits among documents' word hashes (uint64, one after another); a hit may span two documents."""
        runs = run_hashes(hashes, self._length)
        places = np.flatnonzero(self._filter[runs >> self._shift])
        lows = np.searchsorted(self._hashes, runs[places], side="left")
        highs = np.searchsorted(self._hashes, runs[places], side="right")
        for found in np.flatnonzero(highs > lows):
            for run in range(lows[found], highs[found]):
                place, text, start = places[found], self._texts[run], self._starts[run]
                yield _Hit(int(place), self._length, int(text), int(start))


def longest_stretch(runs: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Begin and end of the longest stretch that runs (begin, end), sorted, cover without a gap."""
    best = begin, end = runs[0]
    for first, last in runs[1:]:
        begin, end = (begin, max(end, last)) if first <= end else (first, last)
        best = max(best, (begin, end), key=lambda stretch: stretch[1] - stretch[0])
    return best
