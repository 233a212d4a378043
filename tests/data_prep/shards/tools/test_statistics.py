"""Statistics of a set are those that pandas finds in its files."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from data_prep.__main__ import main
from data_prep.errors import DataError
from data_prep.shards.manifest import DOCUMENTS_FILE, Manifest
from data_prep.shards.tools.statistics import Statistics, statistics
from data_prep.shards.tools.statistics_table import StatisticsOptions, show_statistics
from data_prep.shards.writer import EncodedDocument
from tests.data_prep.shards.encoded import encoded_documents

MakeSet = Callable[..., Manifest]


def documents(number: int = 200) -> list[EncodedDocument]:
    made = encoded_documents(number)
    for place, document in enumerate(made):
        document.metadata = {
            "licence": ["cc0", "cc-by-4.0", None][place % 3],
            "year": 1990 + place % 15,
            "journal": f"[b]Acta {place % 30}[/b]",
        }
    return made


@pytest.fixture(params=[("best_fit", 1), ("concat", 1), ("per_document", 3)], ids=lambda p: p[0])
def made(
    request: pytest.FixtureRequest, tmp_path: Path, make_set: MakeSet
) -> tuple[Path, Statistics]:
    policy, epochs = request.param
    make_set(tmp_path / "set", documents(), policy=policy, epochs=epochs)
    return tmp_path / "set", statistics(tmp_path / "set")


def test_rows_and_tokens_are_those_of_the_shards(made: tuple[Path, Statistics]) -> None:
    folder, found = made
    rows = pd.read_parquet(folder / "shard.parquet")
    pieces = [piece for row in rows["documents"] for piece in row]
    tokens = sum(piece["length"] for piece in pieces)
    assert found.rows == len(rows)
    assert found.tokens == found.trained_tokens == tokens
    assert found.padding == 32 * len(rows) - tokens
    assert found.fill == tokens / (32 * len(rows))
    assert found.documents == len({piece["id"] for piece in pieces}) == 200
    assert found.documents_per_row == len(pieces) / len(rows)


def test_cut_documents_are_those_that_no_row_holds_whole(made: tuple[Path, Statistics]) -> None:
    folder, found = made
    lengths = {document.id: len(document.tokens) for document in documents()}
    rows = pd.read_parquet(folder / "shard.parquet")
    whole = {
        piece["id"]
        for row in rows["documents"]
        for piece in row
        if piece["length"] == lengths[piece["id"]]
    }
    assert found.cut_share == 1 - len(whole) / 200
    assert 0 < found.cut_share < 1


def test_quantiles_of_lengths_are_those_of_all_documents(made: tuple[Path, Statistics]) -> None:
    lengths = [len(document.tokens) for document in documents()]
    expected = {
        name: int(np.quantile(lengths, quantile, method="inverted_cdf"))
        for name, quantile in [
            ("1%", 0.01),
            ("10%", 0.1),
            ("50%", 0.5),
            ("90%", 0.9),
            ("99%", 0.99),
        ]
    }
    assert made[1].lengths == expected | {"longest": max(lengths)}


@pytest.mark.parametrize("group", ["licence", "year", "journal"])
def test_tokens_are_told_by_licence_year_and_journal(
    made: tuple[Path, Statistics], group: str
) -> None:
    listed = pd.read_parquet(made[0] / DOCUMENTS_FILE)
    values = [
        "unknown" if pd.isna(value) else str(int(value) if group == "year" else value)
        for value in listed[group]
    ]
    expected = listed["tokens"].groupby(values).sum().to_dict()
    found = made[1].tokens_by[group]
    assert found == expected
    assert list(found.values()) == sorted(expected.values(), reverse=True)


def test_bytes_are_those_on_disk(made: tuple[Path, Statistics]) -> None:
    folder, found = made
    assert found.disk_bytes == sum(
        path.stat().st_size for path in folder.rglob("*") if path.is_file()
    )
    metadata = pq.read_metadata(folder / "shard.parquet")
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    assert set(found.columns) == {"tokens", "documents"}
    assert found.columns["tokens"].disk == sum(
        group.column(0).total_compressed_size for group in groups
    )
    # All but page headers and levels is two bytes a token.
    assert found.columns["tokens"].raw >= 2 * 32 * found.rows
    assert sum(column.disk for column in found.columns.values()) < found.disk_bytes
    sizes = [group.num_rows for group in groups]
    assert found.row_groups == len(groups)
    assert found.rows_per_row_group == (min(sizes), max(sizes))
    assert found.text_bytes == 4 * sum(len(document.tokens) for document in documents())


def shown(places: list[Path], **options: bool) -> str:
    output = io.StringIO()
    console = Console(file=output, width=120)
    show_statistics(places, StatisticsOptions.model_validate(options), console)
    return output.getvalue()


def test_sets_stand_side_by_side(tmp_path: Path, make_set: MakeSet) -> None:
    make_set(tmp_path / "one", documents(), policy="concat")
    make_set(tmp_path / "other", documents(), policy="per_document", epochs=2)
    text = shown([tmp_path / "one", tmp_path / "other"])
    line = next(line for line in text.splitlines() if "packing" in line)
    assert line.index("concat") < line.index("per_document, 2 epochs")
    assert "journal: 20 others" in text
    assert "[b]Acta" in text  # never taken for markup


def test_json_is_all_of_it(
    tmp_path: Path, make_set: MakeSet, capsys: pytest.CaptureFixture[str]
) -> None:
    make_set(tmp_path / "one", documents())
    assert main(["stats", str(tmp_path / "one"), "--json", "true"]) == 0
    found = json.loads(capsys.readouterr().out)[str(tmp_path / "one")]
    expected = statistics(tmp_path / "one")
    assert found == json.loads(json.dumps(expected.as_json()))
    assert len(found["tokens_by"]["journal"]) == 30
    assert found["disk_bytes_per_token"] == expected.disk_bytes / expected.tokens


def test_a_folder_that_is_no_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder of a shard set"):
        statistics(tmp_path)


@pytest.mark.parametrize("content", [None, b"PAR1"])
def test_a_set_without_its_list_of_documents_is_one_line(
    made: tuple[Path, Statistics], capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    path = made[0] / DOCUMENTS_FILE
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert main(["stats", str(made[0])]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"{path}: missing or not the file")
    assert error.count("\n") == 1
