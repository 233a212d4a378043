"""Files and folders elsewhere, copied through fsspec: from a web server, an S3 server, a folder and memory."""

import gzip
import os
import re
import time

import pytest

from data_prep.config import CorpusConfig
from data_prep.download.inventory import read_inventory
from data_prep.download.stage import download
from data_prep.download.transfer import Patience
from data_prep.files import digest
from tests.data_prep.download.directory_server import DirectoryServer

HASTY = Patience(attempts=3, first_s=0.01, longest_s=0.01)
LINES = b'{"text": "one"}\n' * 3000
PACKED = gzip.compress(LINES)


@pytest.fixture
def web():
    server = DirectoryServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def bucket_server():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(bucket_server, monkeypatch):
    """A client of an S3 server that has the bucket "texts"; its address is in the environment."""
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket_server)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", aws_access_key_id="a", aws_secret_access_key="b")
    client.create_bucket(Bucket="texts", ACL="public-read")
    yield client
    for item in client.list_objects_v2(Bucket="texts").get("Contents", []):
        client.delete_object(Bucket="texts", Key=item["Key"])
    client.delete_bucket(Bucket="texts")


def corpus(tmp_path, *urls, format="text"):
    source = {"format": format, "url": list(urls)}
    return CorpusConfig.model_validate(
        {"output": str(tmp_path / "out"), "sources": {"raw": source}}
    )


def contents(config):
    return {file.name: file.path.read_bytes() for file in read_inventory(config, "raw")}


def test_only_new_and_changed_files_are_fetched_from_wherever_they_are(tmp_path, web, bucket):
    local = tmp_path / "in"
    local.mkdir()
    (local / "local.txt").write_text("local")
    web.publish("/data/web%20page.jsonl.gz", PACKED, md5=False)
    for key in ("a/one.jsonl", "a/deep/two.jsonl", "a/deep/picture.png", "b/three.txt"):
        bucket.put_object(Bucket="texts", Key=key, Body=key.encode())
    config = corpus(
        tmp_path,
        f"file://{local}/local.txt",
        f"{web.url}/data/web%20page.jsonl.gz",
        "s3://texts/a/",
        "s3://texts/b/*.txt",
    )
    report = download(config, HASTY)
    assert not report.failed
    assert contents(config) == {
        "deep/two.jsonl": b"a/deep/two.jsonl",
        "local.txt": b"local",
        "one.jsonl": b"a/one.jsonl",
        "three.txt": b"b/three.txt",
        "web page.jsonl.gz": PACKED,
    }
    assert len(report.ran) == 5
    assert download(config, HASTY).ran == []
    bucket.put_object(Bucket="texts", Key="a/one.jsonl", Body=b"A/ONE.JSONL")
    bucket.put_object(Bucket="texts", Key="b/four.txt", Body=b"four")
    (local / "local.txt").write_text("LOCAL")
    os.utime(local / "local.txt", (time.time() + 5, time.time() + 5))
    web.files["/data/web%20page.jsonl.gz"] += gzip.compress(b"{}")
    report = download(config, HASTY)
    assert sorted(report.ran) == ["raw/four.txt", "raw/local.txt", "raw/one.jsonl", "raw/web page.jsonl.gz"]  # fmt: skip
    assert contents(config)["one.jsonl"] == b"A/ONE.JSONL"


def test_what_came_before_of_an_object_is_not_fetched_again(tmp_path, bucket):
    content = bytes(range(256)) * 1000
    bucket.put_object(Bucket="texts", Key="a.jsonl", Body=content)
    config = corpus(tmp_path, "s3://texts/a.jsonl")
    assert not download(config, HASTY).failed
    file = config.downloads / "raw" / "files" / "a.jsonl"
    validator = bucket.head_object(Bucket="texts", Key="a.jsonl")["ETag"]
    state = digest(["s3://texts/a.jsonl", len(content), validator])[:8]
    file.with_name(f".a.jsonl.{state}.part").write_bytes(b"?" * 100_000)
    file.with_name(".a.jsonl.01234567.part").write_bytes(b"of another state")
    file.unlink()
    assert download(config, HASTY).ran == ["raw/a.jsonl"]
    assert file.read_bytes() == b"?" * 100_000 + content[100_000:]
    assert [path.name for path in file.parent.iterdir()] == ["a.jsonl"]


def test_a_file_of_the_web_resumes_and_the_one_that_is_gone_fails_alone(tmp_path, web):
    for name in ("a.jsonl", "b.jsonl"):
        web.publish(f"/{name}", LINES, md5=False)
    web.faults["/a.jsonl"] = [("drop", 10_000), ("status", 503, {}), ("drop", 5_000)]
    web.faults["/b.jsonl"] = [("status", 404, {})]
    config = corpus(tmp_path, f"{web.url}/a.jsonl", f"{web.url}/b.jsonl")
    report = download(config, HASTY)
    assert report.ran == ["raw/a.jsonl"]
    assert contents(config) == {"a.jsonl": LINES}
    ranges = [
        range for method, path, range in web.requests if (method, path) == ("GET", "/a.jsonl")
    ]
    assert ranges == [None, "bytes=10000-", "bytes=10000-", "bytes=15000-"]
    assert list(report.failed) == ["raw/b.jsonl"]
    assert "404" in report.failed["raw/b.jsonl"]
    assert download(config, HASTY).ran == ["raw/b.jsonl"]


def test_memory_is_a_place_too(tmp_path):
    import fsspec

    fsspec.filesystem("memory").pipe("/w5/x/a.jsonl", LINES)
    config = corpus(tmp_path, "memory://w5/*/a.jsonl")
    assert not download(config, HASTY).failed
    assert contents(config) == {"x/a.jsonl": LINES}


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        (["memory://w5/a.jsonl", "memory://w5/b/a.jsonl"], "has the same name, a.jsonl"),
        (["memory://w5/nothing/"], r"no file for format text there; expected \*\.jsonl"),
        (["memory://w5/c.jsonl"], "cannot be listed"),
        (["s3://no-such-bucket/a.jsonl"], "cannot be listed"),
        (["moon://host/a.jsonl"], "cannot be listed: Protocol not known"),
        (["http://127.0.0.1:9/*.jsonl"], "the web has no patterns"),
        (["http://127.0.0.1:9/data/", "memory://w5/a.jsonl"], "a directory listing among files"),
        (["http://127.0.0.1:9/a.jsonl"], "3 times in a row"),
    ],
)
def test_an_address_that_gives_no_file_is_one_line(tmp_path, bucket, urls, message):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe({"/w5/a.jsonl": b"{}", "/w5/b/a.jsonl": b"{}"})
    report = download(corpus(tmp_path, *urls), HASTY)
    assert list(report.failed) == ["raw"]
    assert re.search(message, report.failed["raw"])
    assert "\n" not in report.failed["raw"]
