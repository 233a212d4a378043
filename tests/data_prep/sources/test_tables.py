"""Parquet, CSV and TSV files, and JSON lines whose fields the config names."""

import csv
import gzip
import json
import subprocess
import sys
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.documents import Reject
from data_prep.errors import DataError
from data_prep.extract.readers import read_records
from data_prep.source_config import Source
from tests.tiny import ROOT

FORMATS = {".jsonl": "text", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
ROWS = [
    {"body": "First text,\nof two \"lines\".", "pk": "a", "head": "One", "lang": "de", "terms": "CC BY-NC 4.0", "date": "May 2019"},
    {"body": "Second\ttext.", "pk": "b", "head": "", "lang": "eng", "terms": "", "date": ""},
    {"body": " ", "pk": "c", "head": "Three", "lang": "", "terms": "", "date": ""},
    {"body": "Fourth text.", "pk": "a", "head": "Vier", "lang": "", "terms": "https://creativecommons.org/publicdomain/zero/1.0/", "date": "2001"},
]  # fmt: skip
FIELDS = {"text": "body", "id": "pk", "title": "head", "language": "lang", "licence": "terms", "year": "date"}  # fmt: skip


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as stream:
            dialect = csv.excel_tab if path.suffix == ".tsv" else csv.excel
            writer = csv.DictWriter(stream, rows[0], dialect=dialect)
            writer.writeheader()
            writer.writerows(rows)


def read(path, tally=None, **fields):
    source = Source(format=FORMATS[path.suffix.replace(".gz", ".csv")], path=path.parent, fields=fields)  # fmt: skip
    return list(
        read_records(path, f"in/{path.name}", source, Counter() if tally is None else tally)
    )


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_config_says_which_field_is_what(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write(path, ROWS)
    tally = Counter()
    first, second, empty, fourth = read(path, tally, **FIELDS)
    assert first["text"] == 'One\n\nFirst text,\nof two "lines".'
    about = first["metadata"]
    assert (about["language"], about["licence"], about["year"]) == ("ger", "cc-by-nc-4.0", 2019)
    assert (second["id"], second["text"]) == (f"text:in/a{suffix}#b", "Second\ttext.")
    assert [second["metadata"][key] for key in ("licence", "year")] == [None, None]
    assert (fourth["metadata"]["licence"], fourth["metadata"]["year"]) == ("cc0", 2001)
    assert isinstance(empty, Reject)
    assert empty.reason == 'no text: "body" is empty'
    # The key is there for the second time: the record's number tells the two apart.
    assert (first["id"], fourth["id"]) == (f"text:in/a{suffix}#a", f"text:in/a{suffix}#a#4")
    assert tally == {"ids used twice": 1}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_dots_lead_into_nested_fields(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write(path, [{"doc": {"body": "Text.", "about": {"key": 5}}, "a.b": "T"}, {"doc": {"body": "More.", "about": {"key": None}}, "a.b": "U"}])  # fmt: skip
    found = read(path, text="doc.body", id="doc.about.key", title="a.b")
    assert [(d["id"].partition("#")[2], d["text"]) for d in found] == [
        ("5", "T\n\nText."),
        ("2", "U\n\nMore."),
    ]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("field", ["text", "title", "id"])
def test_a_column_that_is_missing_is_an_error_that_names_those_there_are(tmp_path, suffix, field):
    path = tmp_path / f"a{suffix}"
    write(path, [{"frage": "Was?", "antwort": "Das.", "text": "x"}])
    with pytest.raises(DataError) as raised:
        read(path, **{field: "wanted"})
    assert str(raised.value) == (
        f'{path}: no column "wanted"; the columns are "frage", "antwort", "text": '
        f"set fields.{field} of the source to one of them"
    )


def test_a_json_line_without_the_field_is_rejected_with_the_fields_it_has(tmp_path):
    path = tmp_path / "a.jsonl"
    write(path, [{"body": "x", "n": 1}])
    (reject,) = read(path)
    assert reject.reason == (
        'no text: expected an object with a string "text"; its fields are "body", "n"'
    )


def test_a_table_in_another_encoding_is_refused_with_the_byte(tmp_path):
    path = tmp_path / "a.csv"
    good = "text\n" + "gut\n" * 1000
    path.write_bytes(good.encode() + "内科\n".encode("gb18030"))
    with pytest.raises(DataError) as raised:
        read(path)
    assert str(raised.value) == (
        f"{path}: byte {len(good)}: not UTF-8 (invalid continuation byte); convert the file to UTF-8"
    )


def test_a_real_table_in_another_encoding_is_refused_with_the_byte(real_data):
    path = real_data / "instruct" / "chinese_medical_dialogue_sample.csv"
    content = path.read_bytes()
    with pytest.raises(DataError, match=r"byte \d+: not UTF-8") as raised:
        read(path, text="answer")
    place = int(str(raised.value).split("byte ")[1].split(":")[0])
    content[:place].decode()
    with pytest.raises(UnicodeDecodeError):
        content[: place + 4].decode()


def test_rows_that_are_broken_are_rejected_and_the_others_read(tmp_path):
    path = tmp_path / "a.csv.gz"
    rows = ['id,text', '1,"good"', '2', '3,a,b', '4,"x"y', '', '5,"two\nlines"', f'6,{"x" * 2000}', '7,end', '8,"open', 'to', 'the end']  # fmt: skip
    path.write_bytes(gzip.compress("\r\n".join(rows).encode()))
    source = Source(format="csv", path=tmp_path, max_article_bytes=1000)
    found = list(read_records(path, "a", source, Counter()))
    assert [(d["id"], d["text"]) for d in found if isinstance(d, dict)] == [
        ("text:a#1", "good"),
        ("text:a#5", "two\nlines"),
        ("text:a#7", "end"),
    ]
    assert [(r.place, r.reason.partition(":")[0]) for r in found if isinstance(r, Reject)] == [
        ("a: line 3", "another width"),
        ("a: line 4", "another width"),
        ("a: line 5", "not CSV"),
        ("a: line 9", "not CSV"),
        ("a: line 11", "not CSV"),
    ]


def test_a_field_of_megabytes_is_read(tmp_path):
    path = tmp_path / "a.csv"
    write(path, [{"text": "x" * 3_000_000}])
    assert len(read(path)[0]["text"]) == 3_000_000


def test_a_broken_parquet_file_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"text {n} " * 50 for n in range(2000)]}), path, row_group_size=500)  # fmt: skip
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(DataError, match=r"a\.parquet: broken after row 0"):
        read(path)
    path.write_bytes(content[:6000] + bytes(200) + content[6200:])
    with pytest.raises(DataError, match=r"a\.parquet: broken after row \d+"):
        read(path)


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.jsonl.gz", "text"),
        ("a.jsonl.zst", "text"),
        ("a.gz", "s2orc"),
        ("a.csv.gz", "csv"),
        ("pubmed26n0001.xml.gz", "pubmed"),
    ],
)
def test_files_compressed_twice_are_refused(tmp_path, name, format):
    path = tmp_path / name
    inner = gzip.compress(b"text\n")
    is_gzip = path.suffix == ".gz"
    path.write_bytes(gzip.compress(inner) if is_gzip else pa.compress(inner, "zstd", asbytes=True))
    source = Source(format=format, path=tmp_path)
    with pytest.raises(DataError, match=rf"{name}: compressed twice"):
        list(read_records(path, name, source, Counter()))


def test_keys_that_read_like_the_made_up_ones_stay_apart(tmp_path):
    path = tmp_path / "a.jsonl"
    write(path, [{"text": "x", "id": key} for key in ("a", "a#3", "a", 5, "5", None)])
    ids = [document["id"] for document in read(path)]
    assert len(set(ids)) == 6
    assert ids[:3] == ["text:in/a.jsonl#a", "text:in/a.jsonl#a#3", "text:in/a.jsonl#a#3#"]


def test_real_json_lines_are_read_whole(real_data):
    path = real_data / "general" / "arxiv.jsonl"
    found = read(path)
    assert [d["text"] for d in found] == [json.loads(line)["text"] for line in path.open()]


def peak_of_reading(path):
    """KB of memory at most of a process that reads a Parquet file."""
    script = (
        "import sys; from collections import Counter; from pathlib import Path\n"
        "from data_prep.source_config import Source\n"
        "from data_prep.extract.readers import read_records\n"
        "path = Path(sys.argv[1]); source = Source(format='parquet', path=path.parent)\n"
        "print(sum(len(d['text']) for d in read_records(path, 'a', source, Counter())))\n"
        # Not ru_maxrss, in which a child begins with what its parent has.
        "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(path)], cwd=ROOT, capture_output=True, text=True, check=True
    )  # fmt: skip
    return int(ended.stdout.split()[1])


def test_memory_does_not_grow_with_a_row_group(tmp_path):
    peaks = []
    for rows in (200, 5000):
        path = tmp_path / f"{rows}.parquet"
        text = "".join(chr(97 + n * n % 26) for n in range(10_000))
        table = pa.table(
            {"text": [f"{n}{text}" for n in range(rows)], "unread": ["x" * 100] * rows}
        )
        pq.write_table(table, path, row_group_size=rows, use_dictionary=False, compression="none")
        del table
        peaks.append(peak_of_reading(path))
    assert peaks[1] < peaks[0] + 25_000  # KB; the larger row group has 50 MB


def test_memory_does_not_grow_with_the_number_of_large_rows(tmp_path):
    peaks = []
    for rows in (4, 64):
        path = tmp_path / f"{rows}.parquet"
        text = "".join(chr(97 + n * n % 26) for n in range(1_000_000))
        table = pa.table({"text": [f"{n}{text}" for n in range(rows)]})
        pq.write_table(table, path, use_dictionary=False, compression="none", write_batch_size=1)
        del table
        peaks.append(peak_of_reading(path))
    assert peaks[1] < peaks[0] + 25_000  # KB; all rows are 64 MB
