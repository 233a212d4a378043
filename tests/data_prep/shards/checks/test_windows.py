"""verify() finds what is wrong in sets of the policy per_document: a window of each document in each epoch."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_prep.shards.manifest import DOCUMENTS_FILE, Manifest
from data_prep.shards.tools.verify import verify
from tests.data_prep.shards.rewritten import (
    END,
    Rows,
    documents,
    only_problem,
    rewrite,
)

MakeSet = Callable[..., Manifest]


@pytest.fixture
def windows(tmp_path: Path, make_set: MakeSet) -> Path:
    """A good set of one window of each document in each of three epochs: row groups of 8, the last shorter."""
    made = documents(30)
    assert len(made) % 8
    make_set(tmp_path / "set", made, policy="per_document", epochs=3)
    return tmp_path / "set"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_good_set_of_windows_has_no_problems(windows: Path, workers: int) -> None:
    assert verify(windows, workers) == []


def long_row(rows: Rows) -> int:
    """A row whose window begins within its document."""
    return next(number for number, row in enumerate(rows) if row["documents"][0]["offset"] > 0)


def test_a_window_outside_its_document_is_found(windows: Path) -> None:
    def move(rows: Rows) -> None:
        rows[long_row(rows)]["documents"][0]["offset"] += 1000

    rewrite_windows(windows, move)
    assert "expected a window of 32" in only_problem(windows)


def test_a_window_that_is_too_short_is_found(windows: Path) -> None:
    def shorten(rows: Rows) -> None:
        row = rows[long_row(rows)]
        row["documents"][0]["length"] -= 1
        row["tokens"][-1] = END

    rewrite_windows(windows, shorten)
    assert "expected a window of 32" in only_problem(windows)


def test_an_end_token_at_the_inner_end_of_a_window_is_found(windows: Path) -> None:
    lengths = {
        line["id"]: line["tokens"] for line in pq.read_table(windows / DOCUMENTS_FILE).to_pylist()
    }

    def end_early(rows: Rows) -> None:
        for row in rows:
            piece = row["documents"][0]
            if piece["offset"] + piece["length"] < lengths[piece["id"]]:
                row["tokens"][piece["length"] - 1] = END
                return

    rewrite_windows(windows, end_early)
    assert "ends with the end token before its document does" in only_problem(windows)


def test_a_whole_document_without_its_end_token_is_found(windows: Path) -> None:
    def without_end(rows: Rows) -> None:
        row = next(row for row in rows if row["documents"][0]["length"] < 32)
        row["tokens"][row["documents"][0]["length"] - 1] = 5

    rewrite_windows(windows, without_end)
    assert "does not end with the end token" in only_problem(windows)


def test_two_documents_in_a_row_of_windows_are_found(windows: Path) -> None:
    def divide(rows: Rows) -> None:
        first = rows[0]["documents"][0]
        first["length"] -= 1
        rows[0]["documents"].append({"id": rows[1]["documents"][0]["id"], "offset": 0, "length": 1})

    rewrite_windows(windows, divide)
    assert "which per_document never packs together" in only_problem(windows)


def test_a_document_twice_in_one_epoch_is_found(windows: Path) -> None:
    def repeat(lines: Rows) -> None:
        # Rows 0 to 7 are the first epoch's, 8 to 15 the second's.
        line = next(line for line in lines if line["rows"][0] == 0)
        line["rows"][1] = 1

    rewrite_windows(windows, relist=repeat)
    assert "its rows are of the epochs 0, 0, 2, expected each once" in only_problem(windows)


def test_a_document_that_an_epoch_lacks_is_found(windows: Path) -> None:
    rewrite_windows(windows, relist=lambda lines: lines[4]["rows"].pop())
    assert "in 2 rows, expected one in each of 3 epochs" in only_problem(windows)


def test_documents_that_are_in_other_rows_than_listed_are_found(windows: Path) -> None:
    def exchange(rows: Rows) -> None:
        # Two documents that are longer than a row: the first 32 tokens of either are a good window.
        long = [row for row in rows[:8] if row["documents"][0]["length"] == 32][:2]
        one, other = (row["documents"][0] for row in long)
        one["id"], other["id"] = other["id"], one["id"]
        for row in long:
            row["documents"][0]["offset"] = 0
            row["tokens"][31] = 5

    rewrite_windows(windows, exchange)
    problems = verify(windows)
    assert len(problems) == 2
    assert all("it is listed for the rows" in problem for problem in problems)


def test_row_groups_of_an_epoch_that_are_shorter_than_the_others_are_found(windows: Path) -> None:
    sizes = [8] * 9 + [Manifest.read(windows).counts["documents"] - 24] * 3
    sizes[-2:] = [sizes[-2] - 1, sizes[-1] + 1]
    rewrite(windows, group_sizes=sizes)
    assert "expected 3 equal ones" in only_problem(windows)


def rewrite_windows(
    folder: Path, change: Callable[[Rows], object] = len, relist: Callable[[Rows], object] = len
) -> None:
    rest = Manifest.read(folder).counts["documents"] % 8
    groups = Manifest.read(folder).counts["rows"] // 24
    sizes = [8] * (3 * groups) + [rest] * 3
    rewrite(folder, change, relist, group_sizes=sizes)
