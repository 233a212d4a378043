import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_prep.config import Benchmark
from data_prep.curate.benchmarks import benchmark_settings, read_benchmark
from data_prep.errors import ConfigError, DataError

RECORDS = [
    {"question": "Which drug?", "choices": {"text": ["one", "two"], "label": ["A", "B"]}, "n": 1},
    {"question": "Which dose?", "choices": {"text": ["three", " "], "label": []}, "n": 2},
]


def write(path, records):
    if path.suffix == ".json":
        path.write_text(json.dumps(records))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        lines = "\n".join(json.dumps(record) for record in records)
        content = lines.encode()
        path.write_bytes(zstandard.compress(content) if path.suffix == ".zst" else content)
    return path


def read(path, *fields):
    questions = read_benchmark(Benchmark(name="b", path=path, fields=list(fields)))
    assert {question.benchmark for question in questions} == {"b"}
    return {question.key: question.texts for question in questions}


@pytest.mark.parametrize("name", ["b.json", "b.jsonl", "b.jsonl.zst", "b.parquet"])
def test_a_list_of_records_is_read_from_every_format(tmp_path, name):
    path = write(tmp_path / name, RECORDS)
    assert read(path, "question", "choices.text") == {
        "0": ("Which drug?", "one", "two"),
        "1": ("Which dose?", "three"),
    }


def test_csv_is_read_by_its_header(tmp_path):
    path = tmp_path / "b.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([["question", "a.b"], ['What is "it",\nreally?', "x"], ["哪些症状？", ""]])
    assert read(path, "question", "a.b") == {
        "0": ('What is "it",\nreally?', "x"),
        "1": ("哪些症状？",),
    }


def test_an_object_of_records_gives_its_keys(tmp_path):
    path = tmp_path / "b.json"
    path.write_text(json.dumps({"217": {"Q": "one", "C": ["two", "three"]}, "9": {"Q": "four"}}))
    assert read(path, "Q", "C") == {"217": ("one", "two", "three"), "9": ("four",)}


def test_records_inside_an_object_and_lists_of_records_are_entered(tmp_path):
    path = tmp_path / "b.json"
    options = [{"value": "yes"}, {"value": "no"}]
    path.write_text(json.dumps({"version": 1, "questions": [{"body": "one", "options": options}]}))
    assert read(path, "body", "options.value") == {"0": ("one", "yes", "no")}


def test_json_lines_may_be_called_json(tmp_path):
    path = tmp_path / "dev.json"
    path.write_text("\n".join(json.dumps(record) for record in RECORDS))
    assert read(path, "question") == {"0": ("Which drug?",), "1": ("Which dose?",)}


@pytest.mark.parametrize("field", ["answer", "question.text", "choices", "n", "choices.text.more"])
def test_a_field_without_text_is_an_error_that_names_the_others(tmp_path, field):
    path = write(tmp_path / "b.jsonl", RECORDS)
    with pytest.raises(ConfigError) as error:
        read(path, "question", field)
    assert str(error.value) == (
        f"benchmark b: no record of {path} has text in the field {field!r}; "
        "name some of: choices.label, choices.text, question"
    )


@pytest.mark.parametrize(
    ("name", "content", "kind", "message"),
    [
        ("b.txt", b"x", ConfigError, "is of no known format; expected .json, .jsonl"),
        ("b.json", b"[]", DataError, "no records"),
        ("b.json", b'["a"]', DataError, "record 0 is a str; expected records with named fields"),
        ("b.json", b'{"a": ', DataError, "not readable as JSON lines"),
        ("b.csv", b"q\n\xff\xfe", DataError, "not readable as csv"),
        ("b.parquet", b"no", DataError, "not readable as parquet"),
    ],
)
def test_broken_files_are_errors_of_one_line(tmp_path, name, content, kind, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(kind, match=message) as error:
        read(path, "q")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_are_the_names_fields_and_contents(tmp_path):
    first, second = (write(tmp_path / name, RECORDS) for name in ("a.jsonl", "b.jsonl"))
    same = [Benchmark(name="n", path=path, fields=["question"]) for path in (first, second)]
    assert benchmark_settings(same[:1]) == benchmark_settings(same[1:])
    with pytest.raises(ConfigError, match="two are named 'n'"):
        benchmark_settings(same)
    second.write_text(second.read_text() + "\n")
    assert benchmark_settings(same[:1]) != benchmark_settings(same[1:])
    second.unlink()
    with pytest.raises(ConfigError, match=r"b.jsonl is no file; give the path"):
        benchmark_settings(same[1:])


def test_real_benchmarks_are_read(real_data):
    pubmedqa = read(real_data / "eval/pubmedqa_ori_pqal.json", "QUESTION", "CONTEXTS")
    assert len(pubmedqa) == 1000
    assert pubmedqa["21645374"][0].startswith("Do mitochondria play a role")
    assert len(pubmedqa["21645374"]) == 3
    assert len(read(real_data / "eval/cmcoqa_question.json", "question")) == 200
