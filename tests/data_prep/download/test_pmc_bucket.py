import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from data_prep.config import CorpusConfig
from data_prep.documents import Deletion, Reject, read_json_lines
from data_prep.download.inventory import read_inventory
from data_prep.download.stage import download
from data_prep.download.transfer import Patience
from tests.data_prep.download.pmc_server import INVENTORIES, jats
from tests.http_handler import SLOW_DOWN

QUICK = Patience(attempts=4, first_s=0.01, longest_s=0.05)
FIRST, SECOND, THIRD = "2026-11-20T01-00Z", "2026-11-21T01-00Z", "2026-11-22T01-00Z"
BIG = 300_000  # letters that make a part of PART_BYTES full
PART_BYTES = 100_000
CHILD = """
import sys
from data_prep.config import CorpusConfig
from data_prep.download.stage import download
download(CorpusConfig.model_validate_json(sys.argv[1]))
"""


@pytest.fixture
def server(running):
    running.reset()
    for number in (1, 2, 3):
        running.publish(f"PMC{number}.1")
    running.take_inventory(FIRST)
    running.requests.clear()
    return running


def corpus(server, tmp_path, **bucket):
    source = {"format": "pmc", "bucket": {"endpoint": server.url, "connections": 8, **bucket}}
    values = {"output": str(tmp_path / "corpus"), "sources": {"pmc": source}}
    return CorpusConfig.model_validate(values)


def run(config):
    return download(config, QUICK)


def records(config):
    """Every record of every part, in the order in which they apply."""
    files = read_inventory(config, "pmc")
    return [record for file in files for record in read_json_lines(file.path)]


def held(config):
    """Article versions and their XML after all parts, read as the contract says: a part's withdrawals act
    after its articles, on that version and older ones; a later part's article replaces an earlier one."""
    here = {}
    for file in read_inventory(config, "pmc"):
        lines = list(read_json_lines(file.path))
        here |= {line["key"]: line.get("xml") for line in lines if "withdrawn" not in line}
        for line in lines:
            if "withdrawn" in line:
                pmcid, version = line["key"].split(".")
                for key in list(here):
                    if key.split(".")[0] == pmcid and int(key.split(".")[1]) <= int(version):
                        del here[key]
    return here


def test_articles_arrive_with_their_metadata_and_a_second_run_asks_for_none(server, tmp_path):
    config = corpus(server, tmp_path)
    report = run(config)
    assert (report.ran, report.failed) == (["pmc/part-000001.jsonl.zst"], {})
    assert held(config) == {f"PMC{n}.1": jats(f"PMC{n}").decode() for n in (1, 2, 3)}
    assert [record["about"]["license_code"] for record in records(config)] == ["CC BY"] * 3
    assert [record["key"] for record in records(config)] == ["PMC1.1", "PMC2.1", "PMC3.1"]
    expected = [f"metadata/PMC{n}.1.json" for n in (1, 2, 3)]
    assert server.fetched() == Counter(expected + [f"PMC{n}.1/PMC{n}.1.xml" for n in (1, 2, 3)])
    report = run(config)
    assert (report.done, report.ran) == (["pmc/part-000001.jsonl.zst"], [])
    assert server.fetched() == {}
    assert not [
        path for path in config.output.rglob(".*") if path.is_file() and path.name != ".lock"
    ]


def test_a_new_inventory_brings_what_is_new_changed_and_withdrawn_and_nothing_else(
    server, tmp_path
):
    config = corpus(server, tmp_path)
    run(config)
    server.fetched()
    server.publish("PMC2.1", jats("PMC2", "A corrected sentence."))
    server.publish("PMC4.1")
    server.remove("PMC3.1")
    server.take_inventory(SECOND)
    report = run(config)
    assert not report.failed
    assert report.done == ["pmc/part-000001.jsonl.zst"]
    assert set(server.fetched()) == {
        "metadata/PMC2.1.json", "PMC2.1/PMC2.1.xml", "metadata/PMC4.1.json", "PMC4.1/PMC4.1.xml",
    }  # fmt: skip
    assert held(config) == {
        "PMC1.1": jats("PMC1").decode(),
        "PMC2.1": jats("PMC2", "A corrected sentence.").decode(),
        "PMC4.1": jats("PMC4").decode(),
    }
    run(config)
    assert server.fetched() == {}


def test_parts_are_read_as_articles_withdrawals_and_rejects(server, tmp_path):
    from data_prep.extract.readers import read_records

    server.publish("PMC5.2", b"<article><front/>\xff</article>")
    server.publish("PMC6.1", jats("PMC6", size=5_000))
    server.publish("PMC7.1", license_code="CC BY-NC", is_retracted=True, pmid=77)
    server.take_inventory(SECOND)
    config = corpus(server, tmp_path)
    source = config.sources["pmc"].model_copy(update={"max_article_bytes": 4_000})
    config = config.model_copy(update={"sources": {"pmc": source}})
    run(config)
    server.remove("PMC1.1")
    server.take_inventory(THIRD)
    run(config)
    read = [
        record
        for file in read_inventory(config, "pmc")
        for record in read_records(file.path, file.name, source, Counter())
    ]
    assert [record for record in read if isinstance(record, Deletion)] == [
        Deletion(None, 1, "PMC1")
    ]
    reasons = {r.place.split("#")[1]: r.reason for r in read if isinstance(r, Reject)}
    assert reasons["PMC5.2"].startswith("unknown encoding: ")
    assert reasons["PMC6.1"].endswith("max_article_bytes is 4000")
    documents = {r.document["id"]: r.document for r in read if hasattr(r, "document")}
    assert sorted(documents) == ["pmcid:PMC1", "pmcid:PMC2", "pmcid:PMC3", "pmcid:PMC7"]
    about = documents["pmcid:PMC7"]["metadata"]
    assert (about["licence"], about["retracted"], about["pmid"], about["version"]) == (
        "cc-by-nc", True, 77, 1,
    )  # fmt: skip


def test_licence_manuscript_and_scan_are_decided_before_any_xml_is_fetched(server, tmp_path):
    server.publish("PMC4.1", license_code="CC BY-NC-ND")
    server.publish("PMC5.1", license_code="TDM", is_manuscript=True)
    server.publish("PMC6.1", license_code="CC0", is_historical_ocr=True)
    server.publish("PMC7.1", license_code=None)
    server.publish("PMC8.1", xml_url=None)
    server.take_inventory(FIRST)
    config = corpus(server, tmp_path, licences=["commercial"])
    run(config)
    assert sorted(held(config)) == ["PMC1.1", "PMC2.1", "PMC3.1"]
    assert {key for key in server.fetched() if key.endswith(".xml")} == {
        f"PMC{n}.1/PMC{n}.1.xml" for n in (1, 2, 3)
    }
    assert (run(config).ran, server.fetched()) == ([], {})
    # A config that asks for more gets exactly that; one that asks for less takes back what it had.
    more = corpus(server, tmp_path, licences=["commercial", "other"], ocr=True)
    run(more)
    assert sorted(held(more)) == [f"PMC{n}.1" for n in (1, 2, 3, 5, 6, 7)]
    assert {key for key in server.fetched() if key.endswith(".xml")} == {
        f"PMC{n}.1/PMC{n}.1.xml" for n in (5, 6, 7)
    }
    run(config)
    assert sorted(held(config)) == ["PMC1.1", "PMC2.1", "PMC3.1"]
    assert server.fetched() == {}
    less = corpus(server, tmp_path, licences=["commercial", "other"], manuscripts=False)
    run(less)
    assert sorted(held(less)) == ["PMC1.1", "PMC2.1", "PMC3.1", "PMC7.1"]


def test_the_highest_version_of_an_article_counts(server, tmp_path):
    server.publish("PMC1.2", jats("PMC1", "Second version."))
    server.publish("PMC1.10", jats("PMC1", "Tenth version."))
    server.take_inventory(FIRST)
    config = corpus(server, tmp_path, licences=["commercial"])
    run(config)
    assert sorted(held(config)) == ["PMC1.10", "PMC2.1", "PMC3.1"]
    # The highest is removed: the one before it is the highest now, although it was withdrawn with it.
    server.remove("PMC1.10")
    server.take_inventory(SECOND)
    run(config)
    assert sorted(held(config)) == ["PMC1.2", "PMC2.1", "PMC3.1"]
    # The next one may not be used: the older one must not stay in its place.
    server.publish("PMC1.3", license_code="CC BY-NC")
    server.take_inventory(THIRD)
    run(config)
    assert sorted(held(config)) == ["PMC2.1", "PMC3.1"]
    server.fetched()
    assert (run(config).ran, server.fetched()) == ([], {})
    # It is removed: what it took back is the highest again.
    server.remove("PMC1.3")
    server.take_inventory("2026-11-23T01-00Z")
    run(config)
    assert sorted(held(config)) == ["PMC1.2", "PMC2.1", "PMC3.1"]


def test_a_damaged_part_is_fetched_again_and_a_withdrawal_in_it_too(server, tmp_path):
    for number in (1, 2, 3):
        server.publish(f"PMC{number}.1", jats(f"PMC{number}", size=BIG))
    server.take_inventory(FIRST)
    config = corpus(server, tmp_path, part_bytes=PART_BYTES)
    assert len(run(config).ran) == 3
    server.remove("PMC3.1")
    server.take_inventory(SECOND)
    run(config)
    server.fetched()
    folder = config.output / "download/pmc/files"
    with (folder / "part-000001.jsonl.zst").open("r+b") as stream:
        stream.seek(5000)
        stream.write(b"damage")
    (folder / "part-000004.jsonl.zst").unlink()  # the withdrawal
    report = run(config)
    assert not report.failed
    assert held(config).keys() == {"PMC1.1", "PMC2.1"}
    assert sum(server.fetched().values()) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_bucket_is_asked_again(server, tmp_path, status):
    server.faults["metadata/PMC1.1.json"] = [("status", status, {}, SLOW_DOWN)] * 2
    server.faults["PMC2.1/PMC2.1.xml"] = [("status", status, {"Retry-After": "1"}, SLOW_DOWN)]
    server.faults[f"{INVENTORIES}/{FIRST}/manifest.json"] = [("status", status, {}, SLOW_DOWN)]
    config = corpus(server, tmp_path)
    began = time.monotonic()
    assert not run(config).failed
    assert time.monotonic() - began >= 1
    assert len(held(config)) == 3
    assert server.requests.count("metadata/PMC1.1.json") == 3


def test_cut_wrong_and_stale_bytes_are_fetched_again(server, tmp_path):
    server.faults["metadata/PMC1.1.json"] = [("drop", 20), ("content", b"{}")]
    server.faults["PMC2.1/PMC2.1.xml"] = [("drop", 100), ("drop", 0)]
    server.faults["PMC3.1/PMC3.1.xml"] = [("content", b"<article/>")]
    server.faults[f"{INVENTORIES}/data/{FIRST}-0.csv.gz"] = [("content", b"damaged")]
    config = corpus(server, tmp_path)
    assert not run(config).failed
    assert held(config) == {f"PMC{n}.1": jats(f"PMC{n}").decode() for n in (1, 2, 3)}


def test_an_article_that_contradicts_its_metadata_fails_alone_and_is_asked_for_again(
    server, tmp_path
):
    server.put("PMC2.1/PMC2.1.xml", b"<article>not what the metadata say</article>")
    config = corpus(server, tmp_path)
    report = run(config)
    assert list(report.failed) == ["pmc/PMC2.1"]
    assert "the article's metadata say" in report.failed["pmc/PMC2.1"]
    assert sorted(held(config)) == ["PMC1.1", "PMC3.1"]
    server.fetched()
    server.publish("PMC2.1", jats("PMC2"))
    assert not run(config).failed
    assert sorted(held(config)) == ["PMC1.1", "PMC2.1", "PMC3.1"]
    assert set(server.fetched()) == {"metadata/PMC2.1.json", "PMC2.1/PMC2.1.xml"}


def test_what_was_removed_since_the_inventory_is_no_failure(server, tmp_path):
    server.remove("PMC2.1")
    config = corpus(server, tmp_path)
    assert not run(config).failed
    assert sorted(held(config)) == ["PMC1.1", "PMC3.1"]


def test_metadata_of_another_form_say_so(server, tmp_path):
    server.put("metadata/PMC2.1.json", b'{"pmcid": "PMC2", "version": 1, "licence": "CC BY"}')
    report = run(corpus(server, tmp_path))
    assert "no is_manuscript, is_historical_ocr" in report.failed["pmc/PMC2.1"]
    assert "form of PMC's metadata has changed" in report.failed["pmc/PMC2.1"]


def test_a_server_that_dies_ends_the_run_and_the_next_goes_on(server, tmp_path):
    for number in range(1, 26):
        server.publish(f"PMC{number}.1")
        if number > 4:
            server.faults[f"metadata/PMC{number}.1.json"] = [("drop", 0)] * QUICK.attempts
    server.take_inventory(FIRST)
    config = corpus(server, tmp_path, connections=2)
    report = run(config)
    assert "articles to go" in report.failed["pmc/articles"]
    assert len(held(config)) == 4
    server.faults.clear()
    assert not run(config).failed
    assert len(held(config)) == 25


def test_a_bucket_that_is_not_there_is_one_line(tmp_path):
    class Nowhere:
        url = "http://127.0.0.1:9"

    report = run(corpus(Nowhere, tmp_path))
    assert list(report.failed) == ["pmc"]
    assert "pmc-oa-opendata" in report.failed["pmc"]
    assert "\n" not in report.failed["pmc"]


def test_no_more_requests_than_connections_run_at_once(server, tmp_path):
    for number in range(1, 16):
        server.publish(f"PMC{number}.1")
        server.faults[f"metadata/PMC{number}.1.json"] = [("wait", 0.02)]
    server.take_inventory(FIRST)
    server.most_at_once = 0
    assert not run(corpus(server, tmp_path, connections=5)).failed
    assert 2 <= server.most_at_once <= 5


def test_killed_while_it_fetches_the_next_run_fetches_only_what_no_part_has(server, tmp_path):
    for number in range(1, 13):
        server.publish(f"PMC{number}.1", jats(f"PMC{number}", size=BIG))
        if number > 6:
            server.faults[f"PMC{number}.1/PMC{number}.1.xml"] = [("wait", 60)]
    server.take_inventory(FIRST)
    config = corpus(server, tmp_path, part_bytes=PART_BYTES, connections=3)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, config.model_dump_json()], stderr=subprocess.DEVNULL
    )
    files = config.output / "download/pmc/files"
    until = time.monotonic() + 30
    while len(list(files.glob("part-*"))) < 3 and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    finished = {line["key"] for part in files.glob("part-*") for line in read_json_lines(part)}
    assert len(finished) >= 3
    server.faults.clear()
    server.fetched()
    assert not run(config).failed
    assert held(config) == {f"PMC{n}.1": jats(f"PMC{n}", size=BIG).decode() for n in range(1, 13)}
    asked = {key.split("/")[0] for key in server.fetched() if key.endswith(".xml")}
    assert asked == {f"PMC{n}.1" for n in range(1, 13)} - finished
    assert not list(files.glob(".*"))


def test_whatever_happens_the_parts_hold_what_the_bucket_has_and_the_config_asks_for(
    server, tmp_path
):
    chance = random.Random(1)
    there = {f"PMC{n}.1": ("CC BY", jats(f"PMC{n}")) for n in (1, 2, 3)}
    for turn in range(5):
        for _ in range(3):
            name = f"PMC{chance.randint(1, 4)}.{chance.randint(1, 3)}"
            if name in there and chance.random() < 0.5:
                server.remove(name)
                del there[name]
            else:
                licence, xml = (
                    chance.choice(("CC BY", "CC BY-NC")),
                    jats(name.split(".")[0], f"{turn}"),
                )
                server.publish(name, xml, license_code=licence)
                there[name] = licence, xml
        server.publish("PMC9.1")  # an inventory is never empty
        there["PMC9.1"] = "CC BY", jats("PMC9")
        server.take_inventory(f"2026-12-{turn + 1:02}T01-00Z")
        licences = chance.choice((["commercial"], ["commercial", "noncommercial"]))
        config = corpus(server, tmp_path, licences=licences)
        parts = sorted(config.output.rglob("part-*"))
        if parts and chance.random() < 0.5:
            chance.choice(parts).write_bytes(b"damage")
        assert not run(config).failed
        highest = {name.split(".")[0]: name for name in sorted(there)}
        expected = {
            name: there[name][1].decode()
            for name in highest.values()
            if there[name][0] == "CC BY" or "noncommercial" in licences
        }
        here = held(config)
        assert {
            name: here[name] for name in {n.split(".")[0]: n for n in sorted(here)}.values()
        } == expected
    server.fetched()
    assert (run(config).ran, server.fetched()) == ([], {})


@pytest.mark.parametrize("encoding", ["ISO-8859-1", "UTF-16", "utf-8"])
def test_an_article_is_read_in_the_encoding_that_it_declares(server, tmp_path, encoding):
    from data_prep.extract.readers import read_records

    xml = jats("PMC1", "Fièvre à 39°.").decode().replace("UTF-8", encoding)
    server.publish("PMC1.1", xml.encode(encoding))
    server.take_inventory(FIRST)
    config = corpus(server, tmp_path)
    assert not run(config).failed
    (file,) = read_inventory(config, "pmc")
    read = read_records(file.path, file.name, config.sources["pmc"], Counter())
    assert "Fièvre à 39°." in next(read).document["text"]


@pytest.mark.parametrize("encoding", ["no-such-one", "us-ascii", "base64"])
def test_an_article_in_an_encoding_that_nobody_reads_is_rejected_alone(server, tmp_path, encoding):
    server.publish("PMC1.1", jats("PMC1", "39°").replace(b"UTF-8", encoding.encode()))
    server.take_inventory(FIRST)
    config = corpus(server, tmp_path)
    assert not run(config).failed
    assert records(config)[0]["broken"].startswith("unknown encoding: ")
    assert len(records(config)) == 3


def test_articles_that_never_come_do_not_keep_new_ones_away(server, tmp_path):
    broken = [f"PMC{number}.1" for number in range(11, 41)]
    for name in broken:
        server.publish(name)
        server.put(f"{name}/{name}.xml", b"<article>not what the metadata say</article>")
    server.take_inventory(FIRST)
    config = corpus(server, tmp_path, connections=2)
    while len(run(config).failed) <= len(broken) - 1:  # each run gives up after twenty in a row
        assert sorted(held(config)) == ["PMC1.1", "PMC2.1", "PMC3.1"]
    server.publish("PMC50.1")
    server.take_inventory(SECOND)
    report = run(config)
    assert "PMC50.1" in held(config)
    assert {f"pmc/{name}" for name in broken} <= set(report.failed)
    for name in broken:
        server.publish(name)
    assert not run(config).failed
    assert len(held(config)) == 34


def test_a_disk_that_looks_too_small_is_told(server, tmp_path, capfd, monkeypatch):
    run(corpus(server, tmp_path))
    assert "GB free" not in capfd.readouterr().err
    monkeypatch.setattr("data_prep.download.pmc.bucket.ARTICLE_BYTES", 10**15)
    assert not run(corpus(server, tmp_path / "other")).failed
    assert "about 3000000 GB to fetch" in capfd.readouterr().err
