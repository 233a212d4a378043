"""Broken files of every format through the real commands: each fault is told once, nothing else is lost."""

import gzip
import io
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard

from data_prep.documents import read_documents, read_json_lines
from data_prep.units import finished
from tests.data_prep.sources.jats_articles import article
from tests.data_prep.sources.pubmed_files import nlm_record
from tests.data_prep.sources.s2orc_papers import paper

TEXT = " ".join(f"Sentence number {n} says that aspirin helps mice." for n in range(5))
FORMATS = ("pubmed", "jats", "text", "csv", "parquet", "s2orc", "html", "pmc")
LONGEST = 100_000  # bytes of a record, so that one above it is quickly made

# By unit: what its one line says.
FAILED = {
    "csv/chinese": r"chinese\.csv: byte \d+: not UTF-8 .*; convert the file to UTF-8",
    "csv/other": r'other\.csv: no column "text"; the columns are "id", "body": set fields\.text',
    "jats/cut": r"cut\.tar\.gz: broken after \d whole members: .*; fetch the archive again",
    "jats/twice": r"twice\.tgz: compressed twice: .*; unpack it once",
    "parquet/cut": r"cut\.parquet: broken after row 0: .*; fetch or write the file again",
    "parquet/latin": r"latin\.parquet: broken after row 0: .*can't decode byte 0xe9",
    "pmc/part-000001": r"part-000001\.jsonl\.zst: after line \d+: .*Truncated",
    "pmc/part-000002": r"part-000002\.jsonl\.zst: line 1: not an article; expected key, about and xml",
    "pubmed/pubmed26n0002": r"0002\.xml\.gz: broken at byte \d+ of the unpacked XML: .*; fetch",
    "pubmed/pubmed26n0003": r"0003\.xml\.gz: compressed twice: .*; unpack it once",
    "pubmed/pubmed26n0004": r"0004\.xml: broken at .*no element found",
    "pubmed/pubmed26n0005": r"0005\.xml: the root element is <article>, expected <PubmedArticleSet>",
    "pubmed/pubmed26n0006": r"0006\.xml: broken at .*entity amplification",
    "pubmed/pubmed26n0008": r"0008\.xml: broken at line \d+, .*Invalid bytes in character encoding",
    "pubmed/pubmed26n0009": r"0009\.xml: broken at line \d+, .*Char 0x0 out of allowed range; ",
    "s2orc/cut": r"cut\.gz: broken after line 0: .*; fetch the file again",
    "text/cut": r"cut\.jsonl\.zst: broken after line 0: .*; fetch the file again",
    "text/latin": r"latin\.txt: byte \d+: not UTF-8 .*; convert the file to UTF-8",
}
NOT_FETCHED = {
    "pubmed/pubmed26n0010.xml": r"its MD5 is [0-9a-f]{32}, pubmed26n0010\.xml\.md5 says 0{32}; fetch",
    "pubmed/pubmed26n0011.xml": r"0011\.xml: not a file; remove it or put the file there",
    "pubmed/pubmed26n0012.xml": r"0012\.xml: No such file or directory",
}
# By source: the beginnings of the reasons for its rejects, sorted.
REJECTED = {
    "csv": ["another width", "not CSV"],
    "html": ["no text", "unknown encoding", "unknown encoding"],
    "jats": [
        *["compressed twice", "malformed XML", "malformed XML", "no article", "too large"],
        *["unsafe", "unsafe"],
    ],
    "pmc": ["malformed XML"],
    "pubmed": ["no PMID"] * 5,
    "s2orc": ["broken annotations", "no paper", "not JSON"],
    "text": ["no text", "not JSON", "not JSON", "too large"],
}
# By source: ids of what is whole.
WHOLE = {
    "csv": ["text:good.csv#1"],
    "html": ["text:good.html#1"],
    "jats": ["pmcid:PMC1", "pmcid:PMC2", "pmcid:PMC6"],
    "parquet": ["text:good.parquet#a"],
    "pmc": ["pmcid:PMC100"],
    "pubmed": ["pmid:1", "pmid:2147483653", "pmid:7", "pmid:8"],
    "s2orc": ["s2orc:99"],
    "text": ["text:a/same.jsonl#1", "text:b/same.jsonl#1", "text:good.jsonl#1", "text:good.jsonl#5"],
}  # fmt: skip


def put(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def citations(*pmids: object, doctype: str = "", title: str = "A title.", after: str = "") -> str:
    abstract = f"<Abstract><AbstractText>{TEXT}</AbstractText></Abstract>"
    records = [
        nlm_record(str(pmid), title=title, abstract=abstract, ids="", located="") for pmid in pmids
    ]
    return f'<?xml version="1.0"?>{doctype}<PubmedArticleSet>{"".join(records)}{after}</PubmedArticleSet>'


def full_text(number: int, before: str = "", words: str = TEXT) -> str:
    return article(f"<p>{before} {words}</p>", ids=f'<article-id pub-id-type="pmc">PMC{number}</article-id>')  # fmt: skip


def entities(port: int) -> tuple[str, str]:
    """Declarations of entities that grow a thousand millionfold, and of some that lie elsewhere."""
    levels = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9))
    laughs = f'<!DOCTYPE r [<!ENTITY l0 "lol">{levels}]>'
    server = f"http://127.0.0.1:{port}"
    outer = (
        f'<!DOCTYPE r SYSTEM "{server}/dtd" [<!ENTITY file SYSTEM "file:///etc/passwd">'
        f'<!ENTITY web SYSTEM "{server}/x"><!ENTITY % all SYSTEM "{server}/p"> %all;]>'
    )
    return laughs, outer


def put_pubmed(folder: Path, laughs: str, outer: str) -> None:
    good = citations(1)
    packed = gzip.compress(good.encode())
    no_pmids = (0, -5, "abc", 2**63 + 1)
    deleted = '<DeleteCitation><PMID Version="1">99</PMID><PMID>x</PMID></DeleteCitation>'
    contents = {
        "01.xml": citations(1, 2**31 + 5, *no_pmids, after=deleted),
        "02.xml.gz": packed[: len(packed) // 2],
        "03.xml.gz": gzip.compress(packed),
        "04.xml": "",
        "05.xml": full_text(9),
        "06.xml": citations(5, doctype=laughs, title="&l9;"),
        "07.xml": citations(7, doctype=outer, title="T &file; &web;"),
        "08.xml": good.encode().replace(b"mice", b"mic\xff"),
        "09.xml": good.replace("mice", "mi\0ce"),
        "10.xml": good,
        "10.xml.md5": f"MD5(pubmed26n0010.xml)= {'0' * 32}",
        "13.xml": citations(),
        "14.xml": "\ufeff" + citations(8).replace("\n", "\r\n"),
    }
    for name, content in contents.items():
        put(folder / f"pubmed26n00{name}", content)
    os.mkfifo(folder / "pubmed26n0011.xml")
    (folder / "pubmed26n0012.xml").symlink_to("nowhere")


def put_jats(folder: Path, laughs: str, outer: str) -> None:
    put(folder / "good.xml", full_text(1))
    put(folder / "outer.xml", outer + full_text(2, "&file; &web;"))
    put(folder / "laughs.xml", laughs + full_text(3, "&l9;"))
    put(folder / "cut.xml", full_text(4)[:-60])
    put(folder / "large.xml", full_text(5, words="word " * LONGEST))
    put(folder / "pubmed.xml", citations(1))
    put(folder / "twice.xml.gz", gzip.compress(gzip.compress(full_text(5).encode())))
    put(folder / "evil.tar.gz", archive({"../6.xml": 5, "/tmp/6.xml": 5, "in/6.xml": 6}))
    whole = archive({f"{n}.xml": n for n in range(10, 20)})
    put(folder / "cut.tar.gz", whole[:-20])
    put(folder / "twice.tgz", gzip.compress(whole))


def archive(members: dict[str, int]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, number in members.items():
            xml = full_text(number).encode()
            about = tarfile.TarInfo(name)
            about.size = len(xml)
            tar.addfile(about, io.BytesIO(xml))
    return content.getvalue()


def put_others(raw: Path) -> None:
    line = json.dumps({"text": TEXT})
    long = json.dumps({"text": "x" * LONGEST})
    put(raw / "text/good.jsonl", f'\ufeff{line}\r\nno JSON\n{{"text": 5}}\n{long}\n{line}'.encode() + b'\n{"text": "\xff"}')  # fmt: skip
    put(raw / "text/a/same.jsonl", line)
    put(raw / "text/b/same.jsonl", line)
    put(raw / "text/latin.txt", "é".encode("latin-1"))
    put(raw / "text/cut.jsonl.zst", zstandard.compress(line.encode() * 99)[:-6])
    put(raw / "csv/good.csv", f'id,text\n1,{TEXT}\n2\n3,"no end\n')
    put(raw / "csv/other.csv", "id,body\n1,x\n")
    put(raw / "csv/chinese.csv", f"id,text\n1,阿司匹林 {TEXT}\n".encode("gb18030"))
    (raw / "parquet").mkdir()
    pq.write_table(pa.table({"id": ["a"], "text": [TEXT]}), raw / "parquet/good.parquet")
    put(raw / "parquet/cut.parquet", (raw / "parquet/good.parquet").read_bytes()[:-9])
    lengths = pa.py_buffer(b"\0\0\0\0\1\0\0\0")
    latin = pa.Array.from_buffers(pa.string(), 1, [None, lengths, pa.py_buffer(b"\xe9")])
    pq.write_table(pa.table({"text": latin}), raw / "parquet/latin.parquet")
    broken = paper().record(paragraph="no JSON")
    records = [paper().record(number=99), broken, {"corpusid": None}]
    put(raw / "s2orc/some.jsonl", "\n".join([*map(json.dumps, records), "no JSON"]))
    put(raw / "s2orc/cut.gz", gzip.compress(json.dumps(records).encode())[:50])
    page = f"<html><head><title>T</title></head><body><p>{TEXT}</p></body></html>"
    put(raw / "html/good.html", page)
    put(raw / "html/none.html", "<html><body></body></html>")
    for name in ("klingon", "undefined"):
        put(raw / f"html/{name}.html", f'<meta charset="{name}">{page}')
    parts = [{"key": "PMC100.1", "xml": full_text(100)}, {"key": "PMC101.1", "xml": "<article"}]
    part = zstandard.compress(b"\n".join(json.dumps(one).encode() for one in parts))
    put(raw / "pmc/part-000000.jsonl.zst", part)
    put(raw / "pmc/part-000001.jsonl.zst", part[: len(part) // 2])
    put(raw / "pmc/part-000002.jsonl.zst", zstandard.compress(b'{"key": "PMC102.1", "xml": 5}'))


class Corpus:
    """A config in a folder, and what the commands said to it."""

    def __init__(self, folder: Path):
        self.output = folder / "out"
        self.config = folder / "corpus.yaml"

    def run(self, stage: str, *arguments: str) -> tuple[int, str]:
        environment = os.environ | {"COLUMNS": "100", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "data_prep", stage, str(self.config), *arguments]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=100, check=False
        )
        said = done.stdout + done.stderr
        assert "Traceback" not in said
        return done.returncode, said


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The folder, and by stage the exit code and what was said; the server's socket saw all of it."""
    folder = tmp_path_factory.mktemp("broken")
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    declarations = entities(server.getsockname()[1])
    put_pubmed(folder / "raw/pubmed", *declarations)
    put_jats(folder / "raw/jats", *declarations)
    put_others(folder / "raw")
    sources: dict[str, dict[str, Any]] = {
        name: {"format": name, "path": str(folder / f"raw/{name}")} for name in FORMATS
    }
    for name in ("jats", "text"):
        sources[name]["max_article_bytes"] = LONGEST
    corpus = Corpus(folder)
    curate = {"languages": [], "same_title": False}
    values = {"output": str(corpus.output), "workers": 2, "sources": sources, "curate": curate}
    corpus.config.write_text(yaml.safe_dump(values))
    said: dict[str, Any] = {name: corpus.run(name) for name in ("download", "extract")}
    yield said | {"corpus": corpus, "server": server}
    server.close()


def told(said: str) -> dict[str, str]:
    """The lines that name a unit and its fault."""
    return dict(re.findall(r"^  ([\w-]+/\S+): (.*)$", said, re.MULTILINE))


@pytest.mark.parametrize(("stage", "expected"), [("download", NOT_FETCHED), ("extract", FAILED)])
def test_each_broken_file_has_one_line_that_says_what_to_do(
    broken: dict[str, Any], stage: str, expected: dict[str, str]
) -> None:
    code, said = broken[stage]
    assert code == 1
    faults = told(said)
    assert sorted(faults) == sorted(expected)
    for unit, pattern in expected.items():
        assert re.search(pattern, faults[unit]), faults[unit]
    assert f"{stage}: {len(expected)} failed (above); mend the input" in said


def test_what_is_whole_beside_it_becomes_documents(broken: dict[str, Any]) -> None:
    found: dict[str, list[str]] = {}
    rejects: dict[str, list[str]] = {}
    for unit in finished(broken["corpus"].output / "extract"):
        source = unit.name.partition("/")[0]
        ids = [document["id"] for document in read_documents(unit.folder / "documents.jsonl.zst")]
        found.setdefault(source, []).extend(ids)
        reasons = [reject["reason"] for reject in read_json_lines(unit.folder / "rejects.jsonl.zst")]  # fmt: skip
        rejects.setdefault(source, []).extend(reason.partition(":")[0] for reason in reasons)
    assert {source: sorted(ids) for source, ids in found.items()} == WHOLE
    assert {source: sorted(reasons) for source, reasons in rejects.items() if reasons} == REJECTED


def test_no_entity_is_expanded_or_fetched(broken: dict[str, Any]) -> None:
    with pytest.raises(BlockingIOError):  # nobody has connected
        broken["server"].accept()
    units = finished(broken["corpus"].output / "extract")
    texts = [
        document["text"]
        for unit in units
        for document in read_documents(unit.folder / "documents.jsonl.zst")
    ]
    assert not any("root:" in text or "lol" in text for text in texts)


def test_with_allow_failed_the_whole_documents_are_curated(broken: dict[str, Any]) -> None:
    code, said = broken["corpus"].run("curate", "--allow-failed")
    assert code == 0, said
    kept = [unit.counts["kept"] for unit in finished(broken["corpus"].output / "curate")]
    assert sum(kept) == sum(map(len, WHOLE.values()))


def test_all_faults_of_a_config_are_told_at_once(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path)
    sources = {
        "two": {"format": "pubmed", "path": "x", "url": ["https://host/"]},
        "pair": {"format": "pubmed", "bucket": {}},
        "negative": {"format": "jats", "path": "x", "max_article_bytes": -1},
        "address": {"format": "pmc", "bucket": {"endpoint": "no address"}},
    }
    values = {"output": str(corpus.output), "wrkers": 2, "sources": sources}
    corpus.config.write_text(yaml.safe_dump(values))
    code, said = corpus.run("all")
    assert code == 2
    assert not corpus.output.exists()
    lines = said.splitlines()
    for place, what in {
        "wrkers": "unknown key; did you mean workers?",
        "sources.two": "give one of path, url, bucket, release, dataset; found path and url",
        "sources.pair": "bucket goes with format pmc, found pubmed",
        "sources.negative.max_article_bytes": "greater than or equal to 1000",
        "sources.address.bucket.endpoint": "expected an address that begins with https://",
    }.items():
        (line,) = (line for line in lines if line.startswith(f"{corpus.config}: {place}: "))
        assert what in line
    assert len(lines) == 5
