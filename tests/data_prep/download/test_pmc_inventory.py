import gzip
import hashlib

import numpy as np
import pyarrow as pa
import pytest

from data_prep.download.inventory import HashCache
from data_prep.download.pmc.articles import (
    FETCHED,
    NOT_WANTED,
    TOO_LARGE,
    WITHDRAWN,
    Articles,
    make_plan,
    read_articles,
    rows_path,
    write_rows,
)
from data_prep.download.pmc.inventory import Inventory, etag_states, read_newest, read_rows
from data_prep.download.pmc.layout import name_of, read_metadata
from data_prep.download.transfer import Patience
from data_prep.errors import DataError
from data_prep.source_config import Bucket
from tests.data_prep.download.pmc_server import INVENTORIES

QUICK = Patience(attempts=2, first_s=0.01, longest_s=0.01)
COLUMNS = ["Bucket", "Key", "LastModifiedDate", "ETag"]
OLD, NEW = "2026-11-20T01-00Z", "2026-11-21T01-00Z"


@pytest.fixture
def server(running):
    running.reset()
    for name in ("PMC2.1", "PMC1.2", "PMC1.10", "PMC1.1"):
        running.publish(name)
    running.take_inventory(OLD)
    return running


def read(server, tmp_path):
    return read_newest(Bucket(endpoint=server.url), tmp_path / "inventory", QUICK)


def put(tmp_path, rows):
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress("".join(rows).encode()))
    return path


def row(key, etag="0" * 32):
    return f'"pmc-oa-opendata","{key}","2026-01-08T11:47:59.000Z","{etag}"\n'


def test_the_newest_inventory_gives_the_highest_version_of_each_article(server, tmp_path):
    inventory = read(server, tmp_path)
    assert inventory.stamp == OLD
    assert [name_of(key) for key in inventory.keys.tolist()] == ["PMC1.10", "PMC2.1"]
    etags = [server.s3.head_object(Bucket="pmc-oa-opendata", Key=f"metadata/{name}.json")["ETag"] for name in ("PMC1.10", "PMC2.1")]  # fmt: skip
    assert [f"{state:016x}" for state in inventory.states.tolist()] == [e[1:17] for e in etags]


def test_an_inventory_is_fetched_once_and_a_damaged_copy_again(server, tmp_path):
    first = read(server, tmp_path)
    server.requests.clear()
    assert read(server, tmp_path).keys.tolist() == first.keys.tolist()
    assert not [key for key in server.requests if key.endswith(".csv.gz")]
    (tmp_path / f"inventory/{OLD}.parquet").write_bytes(b"damage")
    assert read(server, tmp_path).keys.tolist() == first.keys.tolist()
    assert [path.name for path in (tmp_path / "inventory").iterdir()] == [f"{OLD}.parquet"]


def test_one_that_is_being_written_is_passed_over(server, tmp_path):
    server.publish("PMC3.1")
    server.put(f"{INVENTORIES}/{NEW}/manifest.checksum", b"x")
    assert read(server, tmp_path).stamp == OLD
    server.take_inventory(NEW)
    assert len(read(server, tmp_path).keys) == 3
    assert [path.name for path in (tmp_path / "inventory").iterdir()] == [f"{NEW}.parquet"]


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (b"not JSON", "not a manifest of an S3 inventory"),
        (b'{"fileFormat": "CSV", "files": []}', "not a manifest of an S3 inventory"),
        (b'{"fileFormat": "ORC", "fileSchema": "Key, ETag", "files": [{"key": "a", "MD5checksum": "b"}]}', "of format ORC"),
        (b'{"fileFormat": "CSV", "fileSchema": "Bucket, Key", "files": [{"key": "a", "MD5checksum": "b"}]}', "expected CSV with Key and ETag"),
    ],
)  # fmt: skip
def test_a_manifest_of_another_form_says_so(server, tmp_path, manifest, message):
    server.put(f"{INVENTORIES}/{OLD}/manifest.json", manifest)
    with pytest.raises(DataError, match=message):
        read(server, tmp_path)


def test_an_inventory_without_metadata_or_with_wrong_checksums_says_so(server, tmp_path):
    server.put(f"{INVENTORIES}/data/{OLD}-0.csv.gz", gzip.compress(b"other bytes"))
    with pytest.raises(DataError, match="the inventory's manifest says"):
        read(server, tmp_path)
    for name in ("PMC2.1", "PMC1.2", "PMC1.10", "PMC1.1"):
        server.remove(name)
    server.put("metadata/README.txt", b"moved")
    server.take_inventory(OLD, files=1)
    with pytest.raises(DataError, match="the layout of the bucket has changed"):
        read(server, tmp_path)


def test_rows_that_are_not_metadata_are_passed_over(tmp_path):
    keys = ["metadata/PMC12.3.json", "metadata/PMC12.json", "PMC12.3/PMC12.3.json", "README.txt",
            "metadata/PMC99999999999999.9999.json"]  # fmt: skip
    ((found, states),) = read_rows(put(tmp_path, map(row, keys)), COLUMNS)
    assert [name_of(key) for key in found.tolist()] == ["PMC12.3", "PMC99999999999999.9999"]
    assert states.tolist() == [0, 0]


@pytest.mark.parametrize("damage", [b"", b"not gzip", gzip.compress(b'"a","b"\n' * 9, mtime=0)])
def test_a_file_that_is_no_gzipped_csv_of_these_columns_says_so(tmp_path, damage):
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(damage)
    with pytest.raises(DataError, match="not a gzipped CSV"):
        list(read_rows(path, COLUMNS))


def test_a_cut_file_says_so(tmp_path):
    path = put(tmp_path, (row(f"metadata/PMC{n}.1.json", hashlib.md5(str(n).encode()).hexdigest()) for n in range(1000)))  # fmt: skip
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match="not a gzipped CSV"):
        list(read_rows(path, COLUMNS))


def test_states_are_the_first_half_of_an_md5_or_stand_for_another_etag():
    etags = ["0123456789abcdef" + "0" * 16, '"FFFFFFFFFFFFFFFF' + "0" * 16 + '"', "abc-12"]
    other = int(hashlib.md5(b"abc-12").hexdigest()[:16], 16)
    expected = [0x0123456789ABCDEF, 2**64 - 1, other]
    assert etag_states(pa.array(etags)).tolist() == expected
    assert etag_states(pa.array(etags)[1:]).tolist() == expected[1:]


def articles(*rows):
    columns = np.array(sorted(rows), dtype=np.uint64).reshape(-1, 6).T
    return Articles(*columns[:2], *(column.astype(np.int64) for column in columns[2:]))


def inventory(*keys):
    return Inventory(NEW, np.array(keys, np.uint64), np.ones(len(keys), np.uint64))


def test_an_article_that_was_too_large_is_asked_for_once_it_is_not():
    known = articles((10_001, 1, TOO_LARGE, 0, 5000, 1))
    assert make_plan(known, inventory(10_001), Bucket(), 4000).fetch.tolist() == []
    assert make_plan(known, inventory(10_001), Bucket(), 5000).fetch.tolist() == [10_001]


@pytest.mark.parametrize(("part", "expected"), [(3, [10_001]), (4, [10_001]), (5, [])])
def test_what_a_higher_version_took_back_is_fetched_when_it_is_the_highest_again(part, expected):
    known = articles(
        (10_001, 1, FETCHED, 0, 9, part),
        (10_002, 1, NOT_WANTED, 0, 0, 9),
        (10_003, 1, WITHDRAWN, 0, 0, 4),
        (10_004, 1, WITHDRAWN, 0, 0, 2),
        (20_001, 1, FETCHED, 0, 9, 1),
        (30_001, 1, WITHDRAWN, 0, 0, 8),
    )
    plan = make_plan(known, inventory(10_001, 20_001), Bucket(), 100)
    assert (plan.withdraw.tolist(), plan.fetch.tolist()) == ([], expected)


def test_an_inventory_that_lacks_much_of_what_is_here_withdraws_nothing():
    rows = [(n * 10_000 + 1, 1, FETCHED, 0, 9, 1) for n in range(1, 5001)]
    with pytest.raises(DataError, match="1,500 of 5,000 articles that are here are not in it"):
        make_plan(articles(*rows), inventory(*(row[0] for row in rows[:3500])), Bucket(), 100)
    plan = make_plan(articles(*rows), inventory(*(row[0] for row in rows[:4500])), Bucket(), 100)
    assert (len(plan.withdraw), len(plan.fetch)) == (500, 0)


def test_of_several_rows_of_an_article_the_last_part_s_counts(tmp_path):
    (tmp_path / "files").mkdir()
    write_rows(rows_path(tmp_path, 2), [(20_001, 7, NOT_WANTED, 1, 0)], None)
    write_rows(rows_path(tmp_path, 1), [(20_001, 6, NOT_WANTED, 0, 0), (10_001, 2**64 - 1, NOT_WANTED, 0, 0)], None)  # fmt: skip
    known, parts = read_articles(tmp_path, HashCache(tmp_path / "hashes.jsonl"))
    assert (known.key.tolist(), known.state.tolist()) == ([10_001, 20_001], [2**64 - 1, 7])
    assert parts == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "not JSON"),
        (b"[]", "no pmcid"),
        (b'{"pmcid": "PMC1", "version": 1, "is_manuscript": "no", "is_historical_ocr": false, '
         b'"is_retracted": false}', "is_manuscript is not true or false"),
        (b'{"pmcid": "PMC1", "version": 1}', "no is_manuscript, is_historical_ocr"),
        (b'{"pmcid": "PMC2", "version": 1, "license_code": null, "is_manuscript": false, '
         b'"is_historical_ocr": false, "is_retracted": false, "xml_url": null}', "it is about PMC2.1"),
    ],
)  # fmt: skip
def test_metadata_of_another_form_or_article_say_so(content, message):
    with pytest.raises(DataError, match=message):
        read_metadata(content, "PMC1.1")
