"""Releases of Semantic Scholar's datasets, fetched from a server that answers as its API and its bucket do."""

import gzip
import itertools
import json
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from data_prep.config import CorpusConfig
from data_prep.download.inventory import read_inventory
from data_prep.download.stage import download
from data_prep.download.transfer import Patience
from data_prep.errors import ConfigError
from tests.http_handler import Quiet

HASTY = Patience(attempts=3, first_s=0.01, longest_s=0.01)
KEY = "secret-key"


class Scholar:
    """The API below /datasets/v1, and files at addresses that are good for `uses` requests."""

    def __init__(self):
        self.releases = {"2026-11-10": {}, "2026-11-17": {}}
        self.uses = 10**9
        self.drops = {}  # by file: bytes to send before each of the next connections is cut
        self.fetched = []  # (file, Range header)
        self.listed = 0
        self._uses = {}
        self._signatures = itertools.count()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.root = f"http://127.0.0.1:{self._server.server_port}"
        self.endpoint = f"{self.root}/datasets/v1"

    def api(self, path, key):
        if path == "/release/":
            return 200, sorted(self.releases)
        name, _, dataset = path.removeprefix("/release/").partition("/dataset/")
        name = max(self.releases) if name == "latest" else name
        if name not in self.releases:
            return 404, {"error": "unknown release"}
        if not dataset:
            datasets = [{"name": "papers"}, {"name": "s2orc_v2"}]
            return 200, {"release_id": name, "README": "…", "datasets": datasets}
        if key != KEY:
            return 401, {"error": "key"}
        self.listed += 1
        signature = f"s{next(self._signatures)}"
        self._uses |= {(signature, file): self.uses for file in self.releases[name]}
        files = [
            f"{self.root}/bucket/{name}/{dataset}/{file}?X-Amz-Signature={signature}&x-id=a%2Fb"
            for file in self.releases[name]
        ]
        return 200, {"name": dataset, "files": files}

    def file(self, path, query):
        signature = parse_qs(query)["X-Amz-Signature"][0]
        release, _, name = path.removeprefix("/bucket/").split("/")
        if self._uses[signature, name] < 1:
            return None
        self._uses[signature, name] -= 1
        return self.releases[release][name]

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def _handler(scholar):
    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(403, b"a signature is good for one method")

        def do_GET(self):
            parts = urlsplit(self.path)
            if parts.path.startswith("/datasets/v1"):
                key = self.headers.get("x-api-key")
                status, body = scholar.api(parts.path.removeprefix("/datasets/v1"), key)
                return self.answer(status, json.dumps(body).encode())
            assert self.headers.get("x-api-key") is None
            content = scholar.file(parts.path, parts.query)
            if content is None:
                return self.answer(403, b"<Error><Message>Request has expired</Message></Error>")
            name, asked = parts.path.rpartition("/")[2], self.headers.get("Range")
            scholar.fetched.append((name, asked))
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            drops = scholar.drops.get(name)
            self.answer(
                206 if start else 200, content[start:], start, drops.pop(0) if drops else None
            )

        def answer(self, status, body, start=0, cut=None):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if status == 206:
                end = start + len(body)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[:cut])
            if cut is not None:
                self.wfile.flush()
                self.close_connection = True

    return Handler


@pytest.fixture
def scholar(monkeypatch):
    monkeypatch.setenv("S2_API_KEY", KEY)
    server = Scholar()
    yield server
    server.close()


def corpus(tmp_path, scholar, **release):
    source = {"format": "s2orc", "release": {"endpoint": scholar.endpoint, **release}}
    return CorpusConfig.model_validate({"output": str(tmp_path / "out"), "sources": {"s2": source}})


def contents(config):
    return {file.name: file.path.read_bytes() for file in read_inventory(config, "s2")}


FILES = {f"20261117_{n}.gz": gzip.compress(str(n).encode() * 5000 * (n + 1)) for n in range(6)}
NEW = gzip.compress(b"new")
LARGE = gzip.compress(random.Random(1).randbytes(100_000))


def test_the_newest_release_is_fetched_once(tmp_path, scholar, caplog, capfd):
    scholar.releases["2026-11-17"] = FILES
    config = corpus(tmp_path, scholar)
    assert not download(config, HASTY).failed
    assert contents(config) == FILES
    assert download(config, HASTY).ran == []
    assert len(scholar.fetched) == 6
    scholar.releases["2026-11-24"] = {"20261124_0.gz": NEW}
    assert download(config, HASTY).ran == ["s2/20261124_0.gz"]
    assert contents(config) == {"20261124_0.gz": NEW}
    written = "".join(
        path.read_text(errors="replace") for path in config.output.rglob("*.json*")
    ) + "".join([caplog.text, *capfd.readouterr()])
    assert "X-Amz" not in written
    assert KEY not in written


def test_addresses_that_expire_are_asked_for_anew_and_files_go_on_where_they_were(
    tmp_path, scholar
):
    scholar.releases["2026-11-17"] = {"a.gz": LARGE, **FILES}
    scholar.uses = 2
    scholar.drops["a.gz"] = [30_000, 20_000, 10_000]
    config = corpus(tmp_path, scholar)
    report = download(config, HASTY)
    assert not report.failed
    assert contents(config) == scholar.releases["2026-11-17"]
    asked = [range for name, range in scholar.fetched if name == "a.gz"]
    assert asked == [None, "bytes=30000-", "bytes=50000-", "bytes=60000-"]
    assert scholar.listed == 2


def test_a_file_that_stays_forbidden_fails_without_showing_its_signature(tmp_path, scholar):
    scholar.releases["2026-11-17"] = {"a.gz": b"x"}
    scholar.uses = 0
    report = download(corpus(tmp_path, scholar), HASTY)
    (reason,) = report.failed.values()
    assert "bucket/2026-11-17/s2orc_v2/a.gz: the server answers 403 Forbidden" in reason
    assert "?" not in reason
    assert "X-Amz" not in reason
    assert scholar.listed == 2


def test_a_file_that_is_damaged_on_its_way_is_not_kept(tmp_path, scholar):
    scholar.releases["2026-11-17"] = {"a.gz": LARGE[:-5]}
    config = corpus(tmp_path, scholar)
    assert "not a whole gzip file" in download(config, HASTY).failed["s2/a.gz"]
    scholar.releases["2026-11-17"] = {"a.gz": LARGE}
    assert download(config, HASTY).ran == ["s2/a.gz"]
    assert contents(config) == {"a.gz": LARGE}


@pytest.mark.parametrize(
    ("release", "key", "message"),
    [
        ({"name": "2020-01-01"}, KEY, "no release 2020-01-01; expected latest or one of 2026-11-10, 2026-11-17"),
        ({"dataset": "s3orc"}, KEY, "no dataset s3orc; expected one of papers, s2orc_v2"),
        ({}, "wrong", "the server answers 401; the key in S2_API_KEY is not accepted"),
        ({"name": "2026-11-10"}, KEY, "no file for format s2orc listed"),
    ],
)  # fmt: skip
def test_what_the_service_does_not_have_is_one_line(
    tmp_path, scholar, monkeypatch, release, key, message
):
    monkeypatch.setenv("S2_API_KEY", key)
    report = download(corpus(tmp_path, scholar, **release), HASTY)
    assert message in report.failed["s2"]
    assert key not in report.failed["s2"].replace("S2_API_KEY", "")


def test_without_a_key_the_variable_is_named(tmp_path, scholar, monkeypatch):
    monkeypatch.delenv("S2_API_KEY")
    with pytest.raises(ConfigError, match="the variable S2_API_KEY is not set"):
        download(corpus(tmp_path, scholar), HASTY)
