"""Documents that end with the end token, and a command that is run as users run it."""

from collections.abc import Sequence

import pytest

from data_prep.__main__ import main
from data_prep.shards.writer import EncodedDocument
from tests.data_prep.shards.encoded import encoded_documents

END = 299


def texts(number: int, **options: object) -> list[EncodedDocument]:
    made = encoded_documents(number, **options)  # type: ignore[arg-type]
    for document in made:
        document.tokens[-1] = END
    return [document for document in made if len(document.tokens) > 1]


def refused(capsys: pytest.CaptureFixture[str], words: Sequence[object], code: int) -> str:
    """The one line with which a command ends."""
    assert main([str(word) for word in words]) == code
    error = capsys.readouterr().err.strip()
    assert "\n" not in error, error
    return error
