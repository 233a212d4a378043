"""Documents on disk: lines that come back byte for byte, however many are read or written at once."""

import orjson
import pytest
import zstandard

from data_prep.documents import DocumentWriter, read_documents, read_raw_lines
from data_prep.errors import DataError

RECORDS = [{"id": str(number), "text": "é\n高" * (number % 50) + '"\\'} for number in range(500)]
LINES = [orjson.dumps(record) for record in RECORDS]


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    with DocumentWriter(path) as writer:
        for record in RECORDS:
            writer.write(record)
    return path


@pytest.mark.parametrize("size", [1, 7, 64, 4096, 1 << 22])
def test_raw_lines_are_the_lines_whatever_is_read_at_once(written, size):
    batches = list(read_raw_lines(written, size))
    assert [line for batch in batches for line in batch] == LINES
    assert all(batches)
    assert list(read_documents(written)) == RECORDS


def test_a_file_without_lines_has_none(tmp_path):
    with DocumentWriter(tmp_path / "a.jsonl.zst") as writer:
        writer.write_raw([])
    assert list(read_raw_lines(tmp_path / "a.jsonl.zst")) == []


@pytest.mark.parametrize("together", [1, 3, 500])
def test_the_bytes_do_not_depend_on_what_is_written_at_once(tmp_path, written, together):
    for raw in (True, False):
        path = tmp_path / "b.jsonl.zst"
        with DocumentWriter(path) as writer:
            for begin in range(0, len(RECORDS), together):
                end = begin + together
                writer.write_raw(LINES[begin:end]) if raw else writer.write_all(RECORDS[begin:end])
        assert path.read_bytes() == written.read_bytes()


def test_a_cut_file_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(b"".join(line + b"\n" for line in LINES))[:-20])
    with pytest.raises(DataError, match=r"a\.jsonl\.zst: not readable"):
        list(read_raw_lines(path))
