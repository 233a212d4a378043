"""Lists of documents are merged as by sorting them all at once, whatever fits in memory."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.errors import DataError
from data_prep.shards.document_list import merge_documents
from data_prep.shards.schema import DOCUMENTS


def listed(path: Path, ids: list[str]) -> Path:
    rows = [
        {"id": name, "source": "s", "bytes": len(name), "tokens": 2, "rows": [place, place + 1]}
        for place, name in enumerate(sorted(ids))
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=DOCUMENTS), path)
    return path


@pytest.mark.parametrize("rows_at_once", [1, 3, 10, 1000])
def test_the_merged_list_is_the_sorted_whole(tmp_path: Path, rows_at_once: int) -> None:
    parts = [
        (listed(tmp_path / "a", [f"pmid:{number}" for number in range(0, 90, 2)]), 0),
        (listed(tmp_path / "b", [f"pmid:{number}é" for number in range(1, 30, 2)]), 100),
        (listed(tmp_path / "c", ["pmcid:PMC1", "pmid:", "高"]), 200),
    ]
    merge_documents(parts, tmp_path / "merged", rows_at_once)
    frames = []
    for path, first in parts:
        frame = pd.read_parquet(path)
        frames.append(frame.assign(rows=[[row + first for row in rows] for rows in frame["rows"]]))
    expected = pd.concat(frames).sort_values("id")
    found = pd.read_parquet(tmp_path / "merged")
    assert found["id"].tolist() == expected["id"].tolist()
    assert [list(rows) for rows in found["rows"]] == expected["rows"].tolist()
    assert found["bytes"].tolist() == expected["bytes"].tolist()
    assert pq.read_schema(tmp_path / "merged").equals(DOCUMENTS)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c", "merged"}


def test_a_list_longer_than_a_batch_keeps_its_rows(tmp_path: Path) -> None:
    """The rows of later batches are counted from where the batch begins in its list."""
    number = (1 << 16) + 100
    parts = [(listed(tmp_path / "a", [f"pmid:{k:06}" for k in range(number)]), 7)]
    merge_documents(parts, tmp_path / "merged")
    rows = pq.read_table(tmp_path / "merged")["rows"].combine_chunks()
    expected = np.stack([np.arange(number), np.arange(number) + 1], axis=1) + 7
    assert np.array_equal(rows.flatten().to_numpy().reshape(-1, 2), expected)


@pytest.mark.parametrize("rows_at_once", [1, 1000])
def test_the_same_document_twice_is_an_error(tmp_path: Path, rows_at_once: int) -> None:
    parts = [
        (listed(tmp_path / "a", ["pmid:1", "pmid:2"]), 0),
        (listed(tmp_path / "b", ["pmid:2", "pmid:3"]), 9),
    ]
    with pytest.raises(DataError, match="document 'pmid:2' is in the set twice"):
        merge_documents(parts, tmp_path / "merged", rows_at_once)
