"""inspect() shows the manifest and the text of rows, with the documents in them."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from data_prep.errors import DataError
from data_prep.shards.inspect import inspect
from data_prep.shards.manifest import Manifest
from data_prep.shards.writer import EncodedDocument
from data_prep.tokenizer.encode import load_encoder


@pytest.fixture
def shown(tmp_path: Path, tokenizer: Path, make_set: Callable[..., Manifest]) -> str:
    encoder = load_encoder(tokenizer)
    documents = []
    for number, text in enumerate(["[bold]renal[/bold] failure", "x" * 40, "acute " * 30]):
        tokens = np.append(encoder.encode([text])[0], encoder.end_id)
        mask = np.arange(len(tokens)) > 5
        documents.append(EncodedDocument(f"pmid:{number}", tokens, "words", len(text), {}, mask))
    make_set(tmp_path / "set", documents, has_loss_mask=True, sequence_length=48)
    output = io.StringIO()
    inspect(tmp_path / "set", rows=2, console=Console(file=output, width=100, force_terminal=True))
    return output.getvalue()


def test_the_manifest_is_shown(shown: str) -> None:
    for expected in ("words-train", "documents", "filled", "sequence length"):
        assert expected in shown


def test_rows_are_shown_as_text_with_their_documents(shown: str) -> None:
    assert "pmid:0" in shown
    assert "tokens 0 to " in shown
    assert "<|endoftext|>" in shown
    assert "row 1" in shown
    assert "row 2" not in shown


def test_text_is_never_taken_for_markup(shown: str) -> None:
    assert "[/bold] failure" in shown


def test_tokens_not_trained_on_are_dim(shown: str) -> None:
    assert "\x1b[2m[bold" in shown


def test_a_folder_that_is_no_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder of a shard set"):
        inspect(tmp_path)
