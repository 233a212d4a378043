import datetime
import json

import pytest

from data_prep.config import CorpusConfig
from data_prep.download import check
from data_prep.download.check import check_sources, tell
from data_prep.download.mirror import is_listing, missing_numbers
from tests.data_prep.download.directory_server import DirectoryServer
from tests.data_prep.download.pmc_server import PmcServer

YESTERDAY = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(1)).strftime(
    "%Y-%m-%dT01-00Z"
)
BASE, UPDATE = "/pubmed/baseline/", "/pubmed/updatefiles/"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(check, "_PATIENCE", check.Patience(2, 0.01, 0.01))


@pytest.fixture
def server():
    running = DirectoryServer()
    for number in (1, 2, 3):
        running.publish(f"{BASE}pubmed26n000{number}.xml.gz", b"data")
    running.publish(f"{UPDATE}pubmed26n0004.xml.gz", b"data")
    yield running
    running.close()


@pytest.fixture(scope="module")
def bucket():
    running = PmcServer()
    running.reset()
    running.publish("PMC1.1")
    yield running
    running.close()


def states(**sources):
    values = {"output": "nowhere", "sources": sources}
    findings = check_sources(CorpusConfig.model_validate(values))
    assert all("\n" not in found.message for found in findings)
    return [(found.state, found.message) for found in findings]


def pubmed(server, *folders):
    return {"format": "pubmed", "url": [server.url + folder for folder in folders]}


def test_a_whole_mirror_is_ok_and_its_release_is_told(server):
    found = states(pubmed=pubmed(server, BASE, UPDATE))
    assert [state for state, _ in found] == ["ok"] * 3
    assert found[0][1] == "3 files, each with its .md5"
    assert found[2][1] == "release 2026, 4 files, no number missing"


def test_gaps_missing_checksums_and_a_baseline_that_is_not_listed_are_told(server):
    del server.files[f"{BASE}pubmed26n0002.xml.gz"]
    del server.files[f"{BASE}pubmed26n0003.xml.gz.md5"]
    found = states(pubmed=pubmed(server, BASE, UPDATE))
    assert found[0] == ("changed", "1 of 2 files have no .md5, as pubmed26n0003.xml.gz")
    assert found[2][0] == "changed"
    assert "but none of number 2;" in found[2][1]
    found = states(pubmed=pubmed(server, UPDATE))
    assert found[1][0] == "changed"
    assert "no baseline" in found[1][1]


@pytest.mark.parametrize(
    ("status", "headers", "state"),
    [
        (301, {"Location": UPDATE}, "moved"),
        (404, {}, "retired"),
        (410, {}, "retired"),
        (503, {}, "unreachable"),
    ],
)
def test_an_address_that_changed_says_how(server, status, headers, state):
    server.faults[BASE] = [("status", status, headers)]
    assert states(pubmed=pubmed(server, BASE))[0][0] == state


def test_a_listing_without_files_of_the_format_and_a_server_that_is_off(server):
    server.files["/other/readme.txt"] = b""
    assert states(pubmed=pubmed(server, "/other/"))[0][0] == "changed"
    off = {"format": "pubmed", "url": ["http://127.0.0.1:9/baseline/"]}
    assert states(pubmed=off)[0][0] == "unreachable"


def test_single_files_and_local_folders(server, tmp_path):
    server.files["/books/a.jsonl"] = b"{}\n"
    (tmp_path / "a.txt").write_text("text")
    address = {"format": "text", "url": [server.url + "/books/a.jsonl"]}
    assert states(books=address) == [("ok", "3 bytes")]
    address["url"] = [server.url + "/books/b.jsonl"]
    assert states(books=address)[0][0] == "retired"
    assert states(books={"format": "text", "path": str(tmp_path)})[0][0] == "ok"
    assert states(books={"format": "text", "path": str(tmp_path / "x")})[0][0] == "unreachable"


def test_a_list_of_releases(server, monkeypatch):
    source = {"format": "s2orc", "release": {"endpoint": server.url + "/datasets/v1"}}
    place, names = "/datasets/v1/release/", json.dumps(["2026-11-01", "2026-11-08"]).encode()
    monkeypatch.setenv("S2_API_KEY", "x")
    server.faults[place] = [("content", names)]
    assert states(s2orc=source) == [("ok", "2 releases, the newest 2026-11-08")]
    server.faults[place] = [("content", b'{"releases": []}')]
    assert states(s2orc=source)[0][0] == "changed"
    source["release"]["name"] = "2020-01-01"
    server.faults[place] = [("content", names)]
    assert states(s2orc=source)[0][0] == "retired"


def test_a_bucket_its_newest_inventory_and_an_article_of_it(bucket):
    source = {"format": "pmc", "bucket": {"endpoint": bucket.url}}
    bucket.publish("PMC1.1")
    bucket.take_inventory("2020-01-01T01-00Z")
    found = states(pmc=source)
    assert [state for state, _ in found] == ["changed", "ok"]
    assert "2020-01-01T01-00Z" in found[0][1]
    assert "days old" in found[0][1]
    bucket.take_inventory(YESTERDAY)
    found = states(pmc=source)
    assert [state for state, _ in found] == ["ok", "ok"]
    assert "metadata and XML of PMC1.1" in found[1][1]
    flags = dict.fromkeys(("is_manuscript", "is_historical_ocr", "is_retracted"), False)
    record = {"pmcid": "PMC1", "version": 1, **flags}
    bucket.put("metadata/PMC1.1.json", json.dumps(record).encode())
    assert "no license_code and xml_url in it, nor in the next" in states(pmc=source)[1][1]
    bucket.put("metadata/PMC1.1.json", b'{"pmcid": "PMC1", "version": 1}')
    assert "no is_manuscript" in states(pmc=source)[1][1]
    assert states(pmc=source)[1][0] == "changed"


def test_a_bucket_that_is_empty_or_gone(bucket):
    source = {"format": "pmc", "bucket": {"endpoint": bucket.url, "name": "no-such-bucket"}}
    assert {state for state, _ in states(pmc=source)} <= {"retired", "unreachable"}
    off = {"format": "pmc", "bucket": {"endpoint": "http://127.0.0.1:9"}}
    assert [state for state, _ in states(pmc=off)] == ["unreachable"] * 2


def test_what_is_found_is_told_a_line_each(server, capfd):
    findings = check_sources(
        CorpusConfig.model_validate(
            {"output": "nowhere", "sources": {"pubmed": pubmed(server, BASE, "/gone/")}}
        )
    )
    server.faults[BASE] = []
    assert tell(findings) is False
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == len(findings)
    assert lines[0].startswith("ok ")


def test_brackets_of_an_address_are_shown(capfd):
    tell([check.Finding("books", "s3://b/[ab]*.jsonl", "ok", "2 files of [any] kind")])
    assert capfd.readouterr().err.split() == [
        "ok",
        "books:",
        "s3://b/[ab]*.jsonl:",
        "2",
        "files",
        "of",
        "[any]",
        "kind",
    ]


def test_an_address_is_a_listing_unless_it_names_a_file_or_a_pattern():
    assert is_listing("https://host/pubmed/baseline", "pubmed")
    assert is_listing("https://host/pubmed/baseline/", "pubmed")
    assert not is_listing("https://host/books.jsonl", "text")
    assert not is_listing("https://host/*.jsonl", "text")
    assert not is_listing("s3://bucket/folder/", "text")


def test_numbers_missing_between_the_first_and_the_last():
    names = ["pubmed26n0003.xml.gz", "pubmed26n0005.xml.gz", "pubmed26n0008.xml", "readme.txt"]
    assert missing_numbers(names) == [4, 6, 7]
    assert missing_numbers([]) == []
