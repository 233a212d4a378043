"""Columns of curated documents hold what a plain JSON reader finds in the lines."""

from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.documents import DocumentWriter, empty_metadata
from data_prep.errors import DataError
from data_prep.shards.columns import read_columns
from data_prep.shards.encoded import ABOUT, METADATA

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
DOCUMENTS = st.lists(
    st.fixed_dictionaries(
        {
            "id": TEXTS,
            "text": TEXTS | TEXTS.map(lambda text: text * 50),
            "source": TEXTS,
            "metadata": st.fixed_dictionaries(
                {
                    "pmid": st.none() | st.integers(0, 2**62),
                    "pmcid": st.none() | TEXTS,
                    "doi": st.none() | TEXTS,
                    "licence": st.none() | TEXTS,
                    "year": st.none() | st.integers(-(2**31), 2**31 - 1),
                    "journal": st.none() | TEXTS,
                }
            ).map(lambda known: empty_metadata() | known),
        }
    ),
    max_size=20,
)


def written(path: Path, documents: list[dict[str, Any]]) -> Path:
    with DocumentWriter(path) as writer:
        writer.write_all(documents)
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(documents=DOCUMENTS, size=st.sampled_from([1, 100, 1 << 20]))
def test_columns_are_what_the_lines_say_whatever_is_read_at_once(
    tmp_path: Path, documents: list[dict[str, Any]], size: int
) -> None:
    path = written(tmp_path / "a.jsonl.zst", documents)
    texts, rows = [], []
    for some, about in read_columns(path, size):
        about.validate(full=True)
        assert about.schema == ABOUT
        texts += some
        rows += about.to_pylist()
    assert texts == [document["text"] for document in documents]
    assert rows == [
        {
            "id": document["id"],
            "source": document["source"],
            "bytes": len(document["text"].encode()),
        }
        | {name: document["metadata"][name] for name in METADATA}
        for document in documents
    ]


GOOD = {"id": "a", "text": "b", "source": "c", "metadata": empty_metadata()}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": "a", ', "JSON"),
        (b"[1]", "JSON"),
        (orjson.dumps(GOOD | {"id": 7}), "id"),
        (orjson.dumps(GOOD | {"text": None}), "no text"),
        (orjson.dumps({key: GOOD[key] for key in ("id", "text", "metadata")}), "no source"),
        (orjson.dumps(GOOD | {"metadata": {"year": "1990"}}), "year"),
        (orjson.dumps(GOOD).replace(b'"b"', b'"\xff"'), "utf-8"),
        (orjson.dumps(GOOD).replace(b'"a"', b'"\xff"'), "UTF8"),
    ],
)
def test_a_line_that_is_no_document_is_an_error_that_names_the_file(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(orjson.dumps(GOOD) + b"\n" + line + b"\n"))
    with pytest.raises(
        DataError, match=rf"a\.jsonl\.zst: a line is not a document .*({reason})"
    ) as error:
        list(read_columns(path))
    assert "\n" not in str(error.value)
