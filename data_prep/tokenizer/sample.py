"""The texts that a tokenizer is trained on: every n-th document of the corpus, the same in every run."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.documents import read_documents
from data_prep.errors import DataError

# Characters of a text at once: tokenizers takes 76 bytes of memory for each (measured), and time that grows with the
# square of a word's length.
_PIECE = 1 << 14


class Sample:
    """Texts of every n-th document, n such that about `size` bytes come together, long ones in pieces.

    `characters` is how many all the files hold. The counts are of what has been read.
    """

    def __init__(self, files: Sequence[Path], characters: int, size: int):
        self.files = files
        self.share = min(1.0, size / max(characters, 1))
        self.documents = 0
        self.bytes = 0

    def __iter__(self) -> Iterator[str]:
        credit = 0.0
        for file in self.files:
            for document in read_documents(file):
                credit += self.share
                if credit >= 1:
                    credit -= 1
                    self.documents += 1
                    self.bytes += len(document["text"].encode())
                    yield from pieces(document["text"], _PIECE)

    def counts(self) -> dict[str, int]:
        """For the unit's record; raises DataError where there was nothing to read."""
        if not self.documents:
            raise DataError(
                "the tokenizer has no text to train on: the curated units have no training documents"
            )
        return {"sample_documents": self.documents, "sample_bytes": self.bytes}


def pieces(text: str, length: int) -> Iterator[str]:
    """The text, cut before spaces: words stay whole, but for those longer than `length` characters."""
    start = 0
    while len(text) - start > length:
        end = text.rfind(" ", start + 1, start + length)
        end = end if end > start else start + length
        yield text[start:end]
        start = end
    yield text[start:]
