import gzip
import hashlib
import threading
import time
from email.utils import formatdate

import pytest

from data_prep.config import CorpusConfig
from data_prep.download.inventory import read_inventory
from data_prep.download.mirror import current_release
from data_prep.download.stage import download
from data_prep.download.transfer import Patience, Session, retry_after
from tests.data_prep.download.directory_server import DirectoryServer

BASE, UPDATE = "/pubmed/baseline", "/pubmed/updatefiles"
QUICK = Patience(attempts=3, first_s=0.01, longest_s=0.05)


def content(seed, size=300_000):
    """A gzip file of about this size."""
    return gzip.compress(hashlib.shake_128(str(seed).encode()).digest(size), 0, mtime=0)


@pytest.fixture
def server():
    running = DirectoryServer()
    for number in (1, 2, 3):
        running.publish(f"{BASE}/pubmed26n000{number}.xml.gz", content(number))
    running.publish(f"{UPDATE}/pubmed26n0004.xml.gz", content(4))
    running.files[f"{BASE}/README.txt"] = b"read me"
    running.files[f"{UPDATE}/pubmed26n0004_stats.html"] = b"<html></html>"
    yield running
    running.close()


@pytest.fixture
def config(server, tmp_path):
    source = {"format": "pubmed", "url": [server.url + BASE, server.url + UPDATE + "/"]}
    values = {"output": str(tmp_path / "corpus"), "sources": {"pubmed": source}}
    return CorpusConfig.model_validate(values)


def run(config):
    return download(config, QUICK)


def stored(config):
    """Contents by name of what the inventory gives, after checking its hashes."""
    files = {file.name: file.path.read_bytes() for file in read_inventory(config, "pubmed")}
    hashes = {file.name: file.sha256 for file in read_inventory(config, "pubmed")}
    assert hashes == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return files


def published(server):
    data = {path: file for path, file in server.files.items() if path.endswith(".xml.gz")}
    return {path.rpartition("/")[2]: file for path, file in data.items()}


def unit(number):
    return f"pubmed/pubmed26n000{number}.xml.gz"


def test_all_listed_files_arrive_verified_and_a_second_run_fetches_nothing(server, config):
    report = run(config)
    assert report.ran == [unit(n) for n in (1, 2, 3, 4)]
    assert not report.failed
    assert stored(config) == published(server)
    assert set(server.fetched().values()) == {1}
    report = run(config)
    assert report.done == [unit(n) for n in (1, 2, 3, 4)]
    assert server.fetched() == {}
    folder = config.output / "download/pubmed/files"
    assert not list(folder.glob("*.part")) + list(folder.glob(".*.part"))


def test_a_rerun_fetches_only_what_is_new_changed_or_broken(server, config):
    run(config)
    server.fetched()
    server.publish(f"{UPDATE}/pubmed26n0005.xml.gz", content(5))
    server.publish(f"{BASE}/pubmed26n0002.xml.gz", content("corrected by NLM"))
    cut = config.output / "download/pubmed/files/pubmed26n0003.xml.gz"
    cut.write_bytes(cut.read_bytes()[:1000])
    report = run(config)
    assert report.ran == [unit(n) for n in (2, 3, 5)]
    assert set(server.fetched()) == {
        f"{BASE}/pubmed26n0002.xml.gz",
        f"{BASE}/pubmed26n0003.xml.gz",
        f"{UPDATE}/pubmed26n0005.xml.gz",
    }
    assert stored(config) == published(server)


def test_a_dropped_connection_is_resumed_where_it_broke(server, config):
    path = f"{BASE}/pubmed26n0001.xml.gz"
    server.faults[path] = [("drop", 100_000), ("drop", 50_000)]
    assert not run(config).failed
    asked = [range_ for method, p, range_ in server.requests if (method, p) == ("GET", path)]
    assert asked == [None, "bytes=100000-", "bytes=150000-"]
    assert stored(config) == published(server)


def test_a_later_run_resumes_what_an_earlier_one_had_to_give_up(server, config):
    path = f"{BASE}/pubmed26n0001.xml.gz"
    server.faults[path] = [("drop", 100_000)] + [("drop", 0)] * 3
    report = run(config)
    assert list(report.failed) == [unit(1)]
    assert server.url + path in report.failed[unit(1)]
    assert "\n" not in report.failed[unit(1)]
    assert unit(1).removeprefix("pubmed/") not in stored(config)
    server.requests.clear()
    assert run(config).ran == [unit(1)]
    assert ("GET", path, "bytes=100000-") in server.requests
    assert stored(config) == published(server)


@pytest.mark.parametrize("md5", [None, False])
def test_the_halves_of_two_states_of_a_file_are_never_joined(server, config, md5):
    path = f"{BASE}/pubmed26n0001.xml.gz"
    del server.files[f"{path}.md5"]
    server.publish(path, content(1), md5)
    server.faults[path] = [("drop", 100_000)] + [("drop", 0)] * 3
    run(config)
    server.publish(path, content("new state"), md5)
    assert run(config).ran == [unit(1)]
    assert stored(config) == published(server)


def test_a_server_that_cannot_resume_sends_the_whole_file_again(server, config):
    server.ranges = False
    del server.files[f"{BASE}/pubmed26n0001.xml.gz.md5"]
    server.faults[f"{BASE}/pubmed26n0001.xml.gz"] = [("drop", 100_000)]
    assert not run(config).failed
    assert stored(config) == published(server)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again_after_the_time_it_names(server, config, status):
    path = f"{BASE}/pubmed26n0001.xml.gz"
    server.faults[path] = [("status", status, {"Retry-After": "1"})]
    server.faults[f"{BASE}/"] = [("status", status, {})]
    started = time.monotonic()
    assert not run(config).failed
    assert time.monotonic() - started >= 1
    assert server.fetched()[path] == 2
    assert stored(config) == published(server)


def test_a_wrong_md5_is_asked_for_again_before_the_file_is(server, config):
    server.faults[f"{BASE}/pubmed26n0001.xml.gz.md5"] = [("content", b"0" * 32)]
    assert not run(config).failed
    assert server.fetched()[f"{BASE}/pubmed26n0001.xml.gz"] == 1
    assert stored(config) == published(server)


def test_content_that_contradicts_its_md5_is_fetched_again(server, config):
    path = f"{BASE}/pubmed26n0001.xml.gz"
    server.faults[path] = [("content", content("damaged on the way"))]
    assert not run(config).failed
    assert server.fetched()[path] == 2
    assert stored(config) == published(server)


def test_a_file_that_never_has_its_md5_fails_alone_and_is_not_in_the_inventory(server, config):
    server.publish(f"{BASE}/pubmed26n0002.xml.gz", content(2), md5="0" * 32)
    report = run(config)
    assert list(report.failed) == [unit(2)]
    assert "pubmed26n0002.xml.gz.md5 says 000" in report.failed[unit(2)]
    assert "\n" not in report.failed[unit(2)]
    assert sorted(stored(config)) == [f"pubmed26n000{n}.xml.gz" for n in (1, 3, 4)]
    server.publish(f"{BASE}/pubmed26n0002.xml.gz", content(2))
    assert run(config).ran == [unit(2)]


def test_a_listed_file_that_is_not_there_fails_alone_at_once(server, config):
    server.files[f"{BASE}/pubmed26n0009.xml.gz"] = None
    report = run(config)
    assert list(report.failed) == [unit(9)]
    assert "404" in report.failed[unit(9)]
    assert len(stored(config)) == 4


def test_without_checksums_a_changed_etag_is_a_changed_file(server, config):
    for path in list(server.files):
        if path.endswith(".md5"):
            del server.files[path]
    assert len(run(config).ran) == 4
    assert len(run(config).done) == 4
    server.publish(f"{BASE}/pubmed26n0003.xml.gz", content("changed"), md5=False)
    assert run(config).ran == [unit(3)]
    assert stored(config) == published(server)


def test_without_a_checksum_a_gzip_file_that_is_cut_or_damaged_is_fetched_again(server, config):
    path = f"{BASE}/pubmed26n0001.xml.gz"
    del server.files[f"{path}.md5"]
    server.faults[path] = [("content", content(1)[:-5]), ("content", b"<html>busy</html>")]
    assert not run(config).failed
    assert stored(config) == published(server)
    server.publish(path, content(1)[:1000], md5=False)
    assert "not a whole gzip file" in run(config).failed[unit(1)]


def test_numbers_that_no_listing_has_are_told(server, config, capfd):
    del server.files[f"{BASE}/pubmed26n0002.xml.gz"]
    run(config)
    told = capfd.readouterr().err
    assert "lack the files of number 2;" in told
    assert "baseline" not in told
    del server.files[f"{BASE}/pubmed26n0001.xml.gz"]
    assert not run(config).failed
    assert "lack the file of number 1, the first of a year's baseline" in capfd.readouterr().err


def test_without_checksum_etag_and_date_nothing_is_resumed_but_the_file_arrives(server, config):
    server.etags = False
    path = f"{BASE}/pubmed26n0001.xml.gz"
    del server.files[f"{path}.md5"]
    server.faults[path] = [("drop", 100_000)] + [("drop", 0)] * 3
    assert list(run(config).failed) == [unit(1)]
    server.requests.clear()
    assert run(config).ran == [unit(1)]
    assert ("GET", path, None) in server.requests
    assert stored(config) == published(server)


def test_a_new_year_s_baseline_replaces_everything_before(server, config):
    run(config)
    for number in (1, 2):
        del server.files[f"{BASE}/pubmed26n000{number}.xml.gz"]
        server.publish(f"{BASE}/pubmed27n000{number}.xml.gz", content(("27", number)))
    report = run(config)
    assert report.ran == [f"pubmed/pubmed27n000{number}.xml.gz" for number in (1, 2)]
    assert sorted(stored(config)) == [f"pubmed27n000{number}.xml.gz" for number in (1, 2)]


def test_a_year_counts_from_its_first_baseline_file_on():
    last = {"pubmed26n0001.xml.gz", "pubmed26n1500.xml.gz"}
    assert current_release({*last, "pubmed27n1390.xml.gz"}) == {*last, "pubmed27n1390.xml.gz"}
    assert current_release({*last, "pubmed27n0001.xml.gz"}) == {"pubmed27n0001.xml.gz"}
    assert current_release({"pubmed26n1335.xml.gz", "x.xml"}) == {"pubmed26n1335.xml.gz", "x.xml"}


def test_a_server_that_does_not_answer_is_one_line_and_the_other_sources_go_on(tmp_path, server):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("text")
    sources = {
        "gone": {"format": "pubmed", "url": ["http://127.0.0.1:9/baseline/"]},
        "empty": {"format": "pubmed", "url": [server.url + "/elsewhere/"]},
        "twice": {"format": "pubmed", "url": [server.url + BASE] * 2},
        "books": {"format": "text", "path": str(tmp_path / "in")},
    }
    values = {"output": str(tmp_path / "corpus"), "sources": sources}
    report = run(CorpusConfig.model_validate(values))
    assert report.ran == ["books/a.txt"]
    assert sorted(report.failed) == ["empty", "gone", "twice"]
    assert all("\n" not in reason for reason in report.failed.values())
    assert "http://127.0.0.1:9/baseline/" in report.failed["gone"]
    assert "no file for format pubmed listed" in report.failed["empty"]
    assert "only once" in report.failed["twice"]


@pytest.mark.parametrize("page", [b"", b" \n", b"<!-- nothing -->", b"<html></html>"])
def test_an_empty_listing_lists_no_file(server, page):
    server.faults["/empty/"] = [("content", page)]
    session = Session(QUICK)
    try:
        assert session.listing(server.url + "/empty") == []
    finally:
        session.close()


def test_names_that_would_leave_the_folder_are_not_followed(server, config):
    server.files[f"{BASE}/%2e%2e%2fevil.xml.gz"] = b"evil"
    server.files[f"{BASE}/sub%2fevil.xml.gz"] = b"evil"
    server.files[f"{BASE}/..%5cevil.xml.gz"] = b"evil"
    report = run(config)
    assert (len(report.ran), report.failed) == (4, {})
    assert not [path for path in config.output.rglob("*") if "evil" in path.name]


def test_names_with_spaces_and_percent_signs_are_fetched_under_their_own_name(server, config):
    server.files[f"{BASE}/my%20file%20100%25.xml.gz"] = content("spaced")
    assert not run(config).failed
    assert stored(config)["my file 100%.xml.gz"] == content("spaced")


def test_at_most_four_files_are_asked_for_at_a_time(server, config, monkeypatch):
    for number in range(10, 30):
        server.publish(f"{UPDATE}/pubmed26n00{number}.xml.gz", content(number, 5_000_000))
    running, most = set(), [0]
    handler = server._server.RequestHandlerClass
    answer = handler.answer

    def watched(self, body):
        running.add(threading.get_ident())
        most[0] = max(most[0], len(running))
        answer(self, body)
        running.discard(threading.get_ident())

    monkeypatch.setattr(handler, "answer", watched)
    assert not run(config).failed
    assert 1 < most[0] <= 4


def test_retry_after_is_read_as_seconds_and_as_a_date():
    assert retry_after("120") == 120
    assert 50 < retry_after(formatdate(time.time() + 60, usegmt=True)) <= 60
    assert retry_after("soon") is None
    assert retry_after(None) is None
