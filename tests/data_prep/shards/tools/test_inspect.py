"""inspect() shows the manifest and the text of rows, with the documents in them."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from data_prep.__main__ import main
from data_prep.errors import DataError
from data_prep.shards.manifest import Manifest
from data_prep.shards.tools.inspect import InspectOptions, inspect, visible
from data_prep.shards.writer import EncodedDocument
from data_prep.tokenizer.encode import load_encoder
from tests.data_prep.shards.encoded import encoded_documents

MakeSet = Callable[..., Manifest]
STEERING = "\x1b]0;title\x07\x1b[2J\x9b31m\r\u202egnp.exe"


def shown(folder: Path, **options: object) -> str:
    output = io.StringIO()
    console = Console(file=output, width=100, force_terminal=True)
    inspect(folder, InspectOptions.model_validate(options), console)
    return output.getvalue()


@pytest.fixture
def conversations(tmp_path: Path, tokenizer: Path, make_set: MakeSet) -> Path:
    encoder = load_encoder(tokenizer)
    documents = []
    for number, text in enumerate(["[bold]renal[/bold] failure", "x" * 40, "acute " * 30]):
        tokens = np.append(encoder.encode([text])[0], encoder.end_id)
        mask = np.arange(len(tokens)) > 5
        documents.append(EncodedDocument(f"pmid:{number}", tokens, "words", len(text), {}, mask))
    make_set(tmp_path / "set", documents, has_loss_mask=True, sequence_length=48)
    return tmp_path / "set"


@pytest.fixture
def many(tmp_path: Path, make_set: MakeSet) -> Path:
    """More rows than a row group has, some documents in several."""
    make_set(tmp_path / "many", encoded_documents(60, vocabulary=250))
    return tmp_path / "many"


def numbers(text: str) -> list[int]:
    """The numbers of the rows that are shown."""
    lines = [line for line in text.split("\n") if "row group " in line]
    return [int(line.split("row ")[1].split()[0]) for line in lines]


def test_the_manifest_is_shown(conversations: Path) -> None:
    for expected in ("words-train", "documents", "filled", "sequence length"):
        assert expected in shown(conversations)


def test_rows_are_shown_as_text_with_their_documents(conversations: Path) -> None:
    text = shown(conversations, rows=2)
    assert "pmid:0" in text
    assert "tokens 0 to " in text
    assert "<|endoftext|>" in text
    assert numbers(text) == [0, 1]


def test_text_is_never_taken_for_markup(conversations: Path) -> None:
    assert "[/bold] failure" in shown(conversations)


def test_tokens_not_trained_on_are_dim(conversations: Path) -> None:
    assert "\x1b[2m[bold" in shown(conversations)


def test_any_row_can_be_the_first(many: Path) -> None:
    rows = pd.read_parquet(many / "shard.parquet")
    for first in (0, 7, 8, len(rows) - 2):
        text = shown(many, row=first, rows=2)
        assert numbers(text) == [first, first + 1]
        for row in (first, first + 1):
            for piece in rows["documents"][row]:
                end = piece["offset"] + piece["length"]
                assert f"{piece['id']}  tokens {piece['offset']} to {end}" in text


def test_rows_end_with_the_set(many: Path) -> None:
    last = Manifest.read(many).counts["rows"] - 1
    assert numbers(shown(many, row=last)) == [last]


def test_a_document_is_shown_in_all_its_rows(many: Path) -> None:
    listed = pd.read_parquet(many / "documents.parquet")
    place = int(np.argmax(listed["rows"].map(len)))
    rows = list(listed["rows"][place])
    assert len(rows) > 3
    text = shown(many, document=listed["id"][place])
    assert numbers(text) == rows
    # Its boundaries have a colour of their own.
    assert text.count(f"\x1b[1;33m── {listed['id'][place]}  ") == len(rows)
    assert numbers(shown(many, document=listed["id"][place], rows=2)) == rows[:2]


def test_rows_of_several_epochs_tell_which(tmp_path: Path, make_set: MakeSet) -> None:
    documents = encoded_documents(10, vocabulary=250)
    make_set(tmp_path / "set", documents, policy="per_document", epochs=2)
    text = shown(tmp_path / "set", document=documents[0].id)
    assert [part[0] for part in text.split(", epoch ")[1:]] == ["0", "1"]


def test_what_is_not_there_is_one_line(many: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = Manifest.read(many).counts["rows"]
    for arguments, code, expected in [
        (["--document", "pmid:none"], 2, "pmid:none is not in"),
        (["--row", str(rows)], 2, f"it has {rows}, numbered from 0"),
        (["--row", "0", "--document", "pmid:0"], 2, "leave --row out"),
        (["three"], 2, "rows: "),
        (["--rows", "-1"], 2, "rows: "),
        (["--roww", "1"], 2, "did you mean row"),
    ]:
        assert main(["inspect", str(many), *arguments]) == code
        told = capsys.readouterr().err
        assert expected in told
        assert told.count("\n") == 1


def test_the_number_of_rows_may_follow_the_set(
    many: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(many), "2"]) == 0
    assert numbers(capsys.readouterr().out) == [0, 1]


def test_control_characters_do_not_reach_the_terminal(
    tmp_path: Path, tokenizer: Path, make_set: MakeSet
) -> None:
    encoder = load_encoder(tokenizer)
    tokens = np.append(encoder.encode([f"one\ttwo\n{STEERING}"])[0], encoder.end_id)
    document = EncodedDocument(f"text:{STEERING}", tokens, "words", 1)
    make_set(tmp_path / "set", [document], sequence_length=256)
    output = io.StringIO()
    # No colours: then not one escape sequence is to be written.
    inspect(tmp_path / "set", InspectOptions(), Console(file=output, width=500, no_color=True))
    written = output.getvalue()
    assert not set(written) & {chr(code) for code in range(0xA0)} - set(
        map(chr, range(0x20, 0x7F))
    ) - {"\n", "\t"}
    assert "\u202e" not in written
    assert "␛]0;title␇␛[2J<U+009B>31m␍<U+202E>gnp.exe" in written
    assert "two\n" in written


@pytest.mark.parametrize("text", ["renal failure", "高 é\n\tα", "می‌خواهم", "e\u0301", "\xa0\xad"])
def test_text_that_steers_nothing_is_left_as_it_is(text: str) -> None:
    assert visible(text) == text


def test_a_folder_that_is_no_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder of a shard set"):
        inspect(tmp_path, InspectOptions())
