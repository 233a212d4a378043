"""Which units the files of each format make, and that the stage runs them."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.config import CorpusConfig
from data_prep.documents import read_documents
from data_prep.download.inventory import InventoryFile
from data_prep.download.stage import download
from data_prep.errors import DataError
from data_prep.extract.readers import read_records
from data_prep.extract.stage import ExtractStage
from data_prep.extract.units import units_of
from data_prep.run.executor import run_stage
from data_prep.source_config import Source
from data_prep.sources.jats.reader import Article
from data_prep.units import finished
from tests.data_prep.sources.s2orc_papers import paper


def inventory(*names):
    return [InventoryFile(name, Path("/in") / name, 1, f"hash of {name}") for name in names]


def units(format, *names):
    return units_of("s", Source(format=format, path=Path("/in")), inventory(*names))


def test_parts_of_a_download_apply_in_the_order_of_their_numbers():
    found = units("pmc", "part-000012.jsonl.zst", "part-000002.jsonl.zst")
    assert [(unit.name, unit.payload["order"]) for unit in found] == [
        ("s/part-000002", (0, 2)),
        ("s/part-000012", (0, 12)),
    ]


@pytest.mark.parametrize(
    ("format", "names"),
    [
        ("s2orc", ["20261117_0.gz", "x/b.jsonl.gz"]),
        ("text", ["a.txt", "b.jsonl.zst"]),
        ("parquet", ["a.parquet", "x/a.parquet"]),
        ("csv", ["a.csv", "b.tsv"]),
        ("jats", ["a.tar.gz", "x/a.tgz"]),
    ],
)
def test_a_large_file_is_a_unit_of_its_own(format, names):
    found = units(format, *names)
    assert [unit.payload["files"] for unit in found] == [[(name, f"/in/{name}")] for name in names]
    assert [unit.payload["order"] for unit in found] == [None, None]


@pytest.mark.parametrize("format", ["jats", "html"])
def test_small_files_go_together(format):
    suffix = ".xml" if format == "jats" else ".html"
    names = [f"{n:03d}{suffix}" for n in range(300)]
    found = units(format, *names)
    assert len(found) < 10
    assert sorted(name for unit in found for name in unit.inputs) == names


def test_a_list_belongs_to_its_archive():
    found = units("jats", "x/a.filelist.csv", "x/a.tar.gz", "x/b.tar.gz", "a.filelist.csv")
    assert {unit.name: sorted(unit.inputs) for unit in found} == {
        "s/x--a": ["x/a.filelist.csv", "x/a.tar.gz"],
        "s/x--b": ["x/b.tar.gz"],
    }


def test_two_files_of_one_stem_are_refused():
    with pytest.raises(DataError, match="have the same name"):
        units("csv", "a.csv", "a.tsv")


def test_every_format_runs_through_the_stage(tmp_path):
    page = "<html><body><article><h1>Asthma</h1><p>A page about asthma, long enough to be taken for its main text.</p></article></body></html>"
    pq.write_table(pa.table({"text": ["A row."]}), tmp_path / "a.parquet")
    files = {
        "s2orc": ("a.gz", gzip.compress(json.dumps(paper().record()).encode())),
        "html": ("a.html", page.encode()),
        "csv": ("a.csv", b"id,text\nk,A line.\n"),
        "parquet": ("a.parquet", (tmp_path / "a.parquet").read_bytes()),
        "text": ("a.jsonl", b'{"id": 5, "text": "A record."}\n{"text": 5}\n'),
    }
    for format, (name, content) in files.items():
        (tmp_path / format).mkdir()
        (tmp_path / format / name).write_bytes(content)
    sources = {name: {"format": name, "path": str(tmp_path / name)} for name in files}
    config = CorpusConfig.model_validate({"output": str(tmp_path / "out"), "sources": sources})
    download(config)
    report = run_stage(ExtractStage(config))
    assert not report.failed
    ids = {
        document["source"]: document["id"]
        for unit in finished(config.extracted)
        for document in read_documents(unit.folder / "documents.jsonl.zst")
    }
    assert ids == {
        "s2orc": "s2orc:7",
        "html": "text:a.html#1",
        "csv": "text:a.csv#k",
        "parquet": "text:a.parquet#1",
        "text": "text:a.jsonl#5",
    }


@pytest.mark.parametrize(
    ("written", "code"),
    [("CC BY-NC 4.0", "cc-by-nc-4.0"), ("cc-by-4.0", "cc-by-4.0"), ("Ours", "Ours")],
)
def test_every_format_takes_language_and_licence_from_the_config(tmp_path, written, code):
    page = b"<html><body><article><h1>Asthma</h1><p>A page about asthma, long enough to be taken for its main text.</p></article></body></html>"
    article = b"<article><front><article-meta><title-group><article-title>T</article-title></title-group></article-meta></front><body><p>B</p></body></article>"
    line = json.dumps({"key": "PMC1.1", "about": {}, "xml": article.decode()}).encode()
    pq.write_table(pa.table({"text": ["A row."]}), tmp_path / "a.parquet")
    files = {
        "jats": ("a.xml", article),
        "pmc": ("part-000001.jsonl.zst", pa.compress(line, "zstd", asbytes=True)),
        "s2orc": ("a.gz", gzip.compress(json.dumps(paper().record()).encode())),
        "html": ("a.html", page),
        "csv": ("a.csv", b"text\nA line.\n"),
        "parquet": ("a.parquet", (tmp_path / "a.parquet").read_bytes()),
        "text": ("a.txt", b"A text."),
    }
    for format, (name, content) in files.items():
        (tmp_path / name).write_bytes(content)
        source = Source(format=format, path=tmp_path, language="de", licence=written)
        (record,) = read_records(tmp_path / name, name, source, Counter())
        about = (record.document if isinstance(record, Article) else record)["metadata"]
        # JATS's DTD has English as the language of an article that names none.
        language = "eng" if format in ("jats", "pmc") else "ger"
        assert (about["language"], about["licence"]) == (language, code), format
