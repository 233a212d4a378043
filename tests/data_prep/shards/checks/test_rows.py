"""verify() finds what is wrong in rows, and with the documents that they hold."""

from collections.abc import Callable
from pathlib import Path

from data_prep.shards.manifest import Manifest
from tests.data_prep.shards.rewritten import (
    BEGIN,
    END,
    Rows,
    cut_document,
    documents,
    only_problem,
    piece_of,
    rewrite,
)

MakeSet = Callable[..., Manifest]


# --- rows


def set_token(rows: Rows, row: int, column: int, value: int) -> None:
    rows[row]["tokens"][column] = value


def move_value(rows: Rows) -> None:
    rows[1]["tokens"].append(rows[0]["tokens"].pop())


def test_rows_of_other_lengths_are_found(made: Path) -> None:
    rewrite(made, move_value)
    assert "row 0 of it: tokens has 31 values, expected 32" in only_problem(made)


def test_an_id_outside_the_vocabulary_is_found(made: Path) -> None:
    rewrite(made, lambda rows: set_token(rows, 0, 0, 300))
    assert "token id 300 in a vocabulary of 300" in only_problem(made)


def padded_row(rows: Rows) -> int:
    return next(
        number
        for number, row in enumerate(rows)
        if sum(piece["length"] for piece in row["documents"]) < 32
    )


def test_padding_of_another_id_is_found(made: Path) -> None:
    rewrite(made, lambda rows: set_token(rows, padded_row(rows), -1, 5))
    assert "padding is not filled with the pad id 299" in only_problem(made)


def test_padding_that_is_trained_on_is_found(tmp_path: Path, make_set: MakeSet) -> None:
    make_set(tmp_path / "set", documents(masked=True), has_loss_mask=True)

    def train_on_padding(rows: Rows) -> None:
        rows[padded_row(rows)]["loss_mask"][-1] = True

    rewrite(tmp_path / "set", train_on_padding)
    assert "padding is marked as trained on" in only_problem(tmp_path / "set")


def test_a_row_without_a_document_is_found(made: Path) -> None:
    rewrite(made, lambda rows: rows[2]["documents"].clear())
    assert "row 2 of it holds no document" in only_problem(made)


def test_a_row_with_more_than_fits_is_found(made: Path) -> None:
    def lengthen(rows: Rows) -> None:
        rows[3]["documents"][0]["length"] += 32

    rewrite(made, lengthen)
    assert "32 fit" in only_problem(made)


def test_a_piece_of_no_tokens_is_found(made: Path) -> None:
    def add_empty(rows: Rows) -> None:
        rows[1]["documents"].append({"id": "pmid:0", "offset": 0, "length": 0})

    rewrite(made, add_empty)
    assert "row 1 of it lists a piece of no tokens" in only_problem(made)


# --- begin and end tokens


def test_a_document_without_its_begin_token_is_found(tmp_path: Path, make_set: MakeSet) -> None:
    folder = tmp_path / "set"
    make_set(folder, documents(begin=True), begin_token=True, begin_id=BEGIN)
    rewrite(folder, lambda rows: set_token(rows, 0, 0, 5))
    assert "does not begin with the begin token 298" in only_problem(folder)


def test_a_begin_token_at_an_inner_end_is_found(tmp_path: Path, make_set: MakeSet) -> None:
    folder = tmp_path / "set"
    make_set(folder, documents(begin=True), begin_token=True, begin_id=BEGIN)
    name = cut_document(folder)["id"]

    def begin_again(rows: Rows) -> None:
        row, column, _ = piece_of(rows, name, 1)
        row["tokens"][column] = BEGIN

    rewrite(folder, begin_again)
    assert "the rest of a cut document begins with the begin token 298" in only_problem(folder)


def test_a_document_without_its_end_token_is_found(made: Path) -> None:
    name = cut_document(made)["id"]

    def without_end(rows: Rows) -> None:
        row, column, piece = piece_of(rows, name, -1)
        row["tokens"][column + piece["length"] - 1] = 5

    rewrite(made, without_end)
    assert f"document {name}: it does not end with the end token 299" in only_problem(made)


def test_an_end_token_at_an_inner_end_is_found(made: Path) -> None:
    name = cut_document(made)["id"]

    def end_early(rows: Rows) -> None:
        row, column, piece = piece_of(rows, name, 0)
        row["tokens"][column + piece["length"] - 1] = END

    rewrite(made, end_early)
    found = only_problem(made)
    assert f"document {name}: " in found
    assert "ends with the end token where the document is cut" in found


# --- every document's tokens once each


def test_lost_tokens_are_found(made: Path) -> None:
    name = cut_document(made)["id"]

    def skip(rows: Rows) -> None:
        piece_of(rows, name, 1)[2]["offset"] += 1

    rewrite(made, skip)
    assert f"document {name}: tokens from 32 on are lost" in only_problem(made)


def test_doubled_tokens_are_found(made: Path) -> None:
    name = cut_document(made)["id"]

    def repeat(rows: Rows) -> None:
        piece_of(rows, name, 1)[2]["offset"] -= 1

    rewrite(made, repeat)
    assert f"document {name}: tokens from 31 on are doubled" in only_problem(made)


def test_tokens_that_are_not_all_there_are_found(made: Path) -> None:
    line = cut_document(made)

    def more(lines: Rows) -> None:
        next(other for other in lines if other["id"] == line["id"])["tokens"] += 1

    counts = Manifest.read(made).counts
    changed = counts | {"document_tokens": counts["document_tokens"] + 1}
    rewrite(made, relist=more, counts=changed)
    expected = f"{line['tokens']} tokens are in rows, {line['tokens'] + 1} are listed"
    assert expected in only_problem(made)


def test_a_document_of_the_rows_that_is_not_listed_is_found(made: Path) -> None:
    line = cut_document(made)
    counts = Manifest.read(made).counts
    changed = counts | {
        "documents": counts["documents"] - 1,
        "bytes": counts["bytes"] - line["bytes"],
        "cuts": counts["cuts"] - len(line["rows"]) + 1,
        "document_tokens": counts["document_tokens"] - line["tokens"],
        "cut_documents": counts["cut_documents"] - 1,
    }
    rewrite(made, relist=lambda lines: lines.remove(line), counts=changed)
    assert f"document {line['id']}: it is in row" in only_problem(made)


def test_a_listed_document_that_no_row_holds_is_found(made: Path) -> None:
    counts = Manifest.read(made).counts
    changed = counts | {
        "documents": counts["documents"] + 1,
        "document_tokens": counts["document_tokens"] + 3,
    }
    line = {"id": "zzz", "source": "words", "bytes": 0, "tokens": 3, "rows": [0]}
    rewrite(made, relist=lambda lines: lines.append(line), counts=changed)
    assert "document zzz: it is listed, but in no row" in only_problem(made)


def test_rows_that_are_listed_wrongly_are_found(made: Path) -> None:
    line = cut_document(made)

    def move(lines: Rows) -> None:
        rows = next(other for other in lines if other["id"] == line["id"])["rows"]
        rows[-1] += 1

    rewrite(made, relist=move)
    assert f"document {line['id']}: it is listed for the rows" in only_problem(made)


def test_a_row_outside_the_set_is_found(made: Path) -> None:
    line = cut_document(made)

    def move(lines: Rows) -> None:
        next(other for other in lines if other["id"] == line["id"])["rows"][-1] = 10**6

    rewrite(made, relist=move)
    assert f"document {line['id']}: in row 1000000, the set has" in only_problem(made)
