"""A set far away reads as the one here does, by its ranges, through faults, threads and forks."""

import multiprocessing
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.download.transfer import Patience
from data_prep.errors import ConfigError, DataError
from data_prep.shards.manifest import Manifest
from data_prep.shards.reader import ShardSet
from data_prep.shards.remote_storage import RemoteStorage
from data_prep.shards.storage import LocalStorage, UnreadableError
from data_prep.shards.tools.fetch import fetch
from tests.data_prep.shards.encoded import encoded_documents
from tests.data_prep.shards.range_server import RangeServer
from tests.http_handler import SLOW_DOWN

MakeSet = Callable[..., Manifest]

HASTY = Patience(attempts=4, first_s=0.01, longest_s=0.01)
SHARD = "a/shard.parquet"
UNAVAILABLE = ("status", 503, {}, SLOW_DOWN)


@pytest.fixture(scope="module")
def running() -> Iterator[RangeServer]:
    server = RangeServer()
    yield server
    server.close()


@pytest.fixture
def server(running: RangeServer, monkeypatch: pytest.MonkeyPatch) -> RangeServer:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    running.reset()
    return running


@pytest.fixture
def local(tmp_path: Path, make_set: MakeSet) -> Path:
    """A set of one file with some dozens of row groups."""
    make_set(tmp_path / "set", encoded_documents(120))
    return tmp_path / "set"


@pytest.fixture(params=["s3", "http"])
def remote(request: pytest.FixtureRequest, server: RangeServer, local: Path) -> RemoteStorage:
    """The same set on a server, over both protocols."""
    server.publish(local, "a")
    return RemoteStorage("s3://sets/a" if request.param == "s3" else f"{server.url}/sets/a", HASTY)


def read_all(shards: ShardSet) -> list[list]:
    groups = range(len(shards.row_groups))
    return [shards.read(group).tokens.tolist() for group in groups]


def test_a_remote_set_reads_as_the_local_one(local: Path, remote: RemoteStorage) -> None:
    here, there = ShardSet(local), ShardSet(remote)
    assert there.manifest == here.manifest
    assert read_all(there) == read_all(here)
    assert there.document_ids(3) == here.document_ids(3)
    assert there.documents().equals(here.documents())
    assert there.place(2) == (f"{remote.place}/shard.parquet", 2)
    with pytest.raises(ConfigError, match=r"not a local folder.* fetch "):
        there.folder  # noqa: B018


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_whatever_fsspec_reads_can_hold_a_set(local: Path, kind: str) -> None:
    place = f"file://{local}"
    if kind == "memory":
        place = "memory://sets/a"
        fsspec.filesystem("memory").put(str(local), "/sets/a", recursive=True)
    shards = ShardSet(place)
    assert read_all(shards) == read_all(ShardSet(local))
    assert isinstance(shards.storage, LocalStorage) == (kind == "file")


def test_an_address_that_nothing_reads_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"nonsense://a/b: nonsense:// cannot be read here"):
        ShardSet("nonsense://a/b")


def test_a_row_group_costs_its_own_bytes_and_the_footer_once(
    server: RangeServer, local: Path, remote: RemoteStorage
) -> None:
    path = local / "shard.parquet"
    footer = int.from_bytes(path.read_bytes()[-8:-4], "little") + 8
    metadata = pq.read_metadata(path)
    columns = range(metadata.num_columns)
    begins = [
        min(metadata.row_group(group).column(column).data_page_offset for column in columns)
        for group in range(metadata.num_row_groups)
    ]
    ends = [*begins[1:], path.stat().st_size - footer]
    shards = ShardSet(remote)
    shards.document_ids(3)
    # How long the footer is can only be guessed before it is there.
    guessed = server.sent[SHARD] - (ends[3] - begins[3])
    assert footer <= guessed <= 1.1 * footer + 1024
    for group in (5, 3, len(ends) - 1):
        before = server.sent[SHARD], server.asked[SHARD]
        shards.read(group)
        assert server.sent[SHARD] - before[0] == ends[group] - begins[group]
        assert server.asked[SHARD] - before[1] == 1


@pytest.mark.parametrize(
    "faults",
    [
        [UNAVAILABLE, UNAVAILABLE],
        [("status", 500, {}, b""), ("status", 429, {"Retry-After": "0"}, b"")],
        [("drop", 0), ("drop", 100)],
        [("short", 50), ("short", 0)],
    ],
)
def test_faults_that_pass_are_outlasted(
    server: RangeServer, local: Path, remote: RemoteStorage, faults: list
) -> None:
    # Nothing tells how long a manifest is, so one that ends early is damaged, not late.
    server.faults["a/manifest.json"] = [fault for fault in faults if fault[0] != "short"]
    shards = ShardSet(remote)
    server.faults[SHARD] = list(faults)
    assert shards.read(1).tokens.tolist() == ShardSet(local).read(1).tokens.tolist()
    server.faults[SHARD] = list(faults)
    assert shards.read(5).tokens.tolist() == ShardSet(local).read(5).tokens.tolist()
    assert server.faults[SHARD] == []


def test_a_server_that_stays_away_ends_in_one_line(
    server: RangeServer, remote: RemoteStorage
) -> None:
    shards = ShardSet(remote)
    shards.read(0)
    server.faults[SHARD] = [("status", 500, {}, b"")] * 100
    with pytest.raises(
        DataError, match=r"shard\.parquet: row group 4: cannot read .*4 times in a row.*network"
    ):
        shards.read(4)


def test_a_missing_file_is_named_without_asking_again(
    server: RangeServer, remote: RemoteStorage
) -> None:
    shards = ShardSet(remote)
    server.remove(SHARD)
    with pytest.raises(DataError, match=r"a/shard\.parquet: row group 2: cannot read \(no such"):
        shards.read(2)
    assert server.asked[SHARD] <= 2
    with pytest.raises(DataError, match=r"b/manifest\.json: cannot read .* shard set"):
        ShardSet(RemoteStorage(str(remote.place)[:-1] + "b", HASTY))


def test_a_changed_byte_far_away_is_noticed_and_named(
    server: RangeServer, local: Path, remote: RemoteStorage
) -> None:
    content = bytearray((local / "shard.parquet").read_bytes())
    content[100] ^= 1
    server.put(SHARD, bytes(content))
    shards = ShardSet(remote)
    shards.read(1)
    with pytest.raises(DataError, match=r"shard\.parquet: row group 0: checksum"):
        shards.read(0)
    server.put(SHARD, bytes(content[:-1]) + b"?")
    with pytest.raises(DataError, match=r"shard\.parquet: row group 0: not a whole Parquet file"):
        ShardSet(remote).read(0)


def test_a_server_without_ranges_is_refused_with_what_to_do(
    server: RangeServer, local: Path
) -> None:
    server.publish(local, "a")
    server.faults[SHARD] = [("whole",)]
    with pytest.raises(DataError, match=r"whole files only, not ranges.* fetch"):
        ShardSet(RemoteStorage(f"{server.url}/sets/a", HASTY)).read(0)


def test_a_remote_set_that_was_replaced_says_so(
    server: RangeServer, tmp_path: Path, make_set: MakeSet, remote: RemoteStorage
) -> None:
    shards = ShardSet(remote)
    shards.read(0)
    make_set(tmp_path / "other", encoded_documents(120, seed=1))
    server.publish(tmp_path / "other", "a")
    with pytest.raises(DataError, match=r"/a: the set was replaced while it was read: start again"):
        shards.read(1)


def test_many_threads_read_one_remote_set(local: Path, remote: RemoteStorage) -> None:
    shards = ShardSet(remote)
    expected = read_all(ShardSet(local))
    with ThreadPoolExecutor(8) as pool:
        groups = [*range(len(expected))] * 3
        found = pool.map(lambda group: shards.read(group).tokens.tolist(), groups)
        assert list(found) == expected * 3


def test_other_threads_work_while_a_read_waits(server: RangeServer, local: Path) -> None:
    server.publish(local, "a")
    patience = Patience(attempts=3, first_s=0.5, longest_s=0.5)
    shards = ShardSet(RemoteStorage(f"{server.url}/sets/a", patience))
    server.faults[SHARD] = [("drop", 0)]
    reading = threading.Thread(target=shards.read, args=(0,))
    reading.start()
    steps = 0
    while reading.is_alive():
        steps += 1
    # A thread that held the interpreter while it waited would leave this one a handful of turns.
    assert steps > 1000


def _read_in_child(shards: ShardSet, group: int, answers: multiprocessing.Queue) -> None:
    answers.put(shards.read(group).tokens)


def test_forked_processes_read_what_the_parent_opened(local: Path, remote: RemoteStorage) -> None:
    shards = ShardSet(remote)
    expected = shards.read(0).tokens  # the parent's connections are open, its event loop runs
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    children = [
        context.Process(target=_read_in_child, args=(shards, 1, answers), daemon=True)
        for _ in range(2)
    ]
    for child in children:
        child.start()
    found = [answers.get(timeout=60) for _ in children]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    for tokens in found:
        assert np.array_equal(tokens, ShardSet(local).read(1).tokens)
    assert np.array_equal(shards.read(0).tokens, expected)  # and the parent goes on


def test_a_pickled_remote_set_has_nothing_of_the_network_in_it(remote: RemoteStorage) -> None:
    shards = ShardSet(remote)
    expected = shards.read(3).tokens
    again = pickle.loads(pickle.dumps(shards))
    assert np.array_equal(again.read(3).tokens, expected)


def test_a_local_read_beyond_the_end_is_an_error_and_not_less(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    storage = LocalStorage(tmp_path)
    assert storage.read("file", 2, 5) == b"234"
    assert storage.read("file", 4, 4) == b""
    with pytest.raises(UnreadableError, match="ends too early"):
        storage.read("file", 5, 11)


def test_a_remote_set_is_fetched_through_faults(
    server: RangeServer, tmp_path: Path, local: Path, remote: RemoteStorage
) -> None:
    server.faults[SHARD] = [UNAVAILABLE, ("drop", 1000), ("short", 1000)]
    manifest = fetch(remote, tmp_path / "here")
    assert manifest == Manifest.read(local)
    for path in local.rglob("*.*"):
        assert (tmp_path / "here" / path.relative_to(local)).read_bytes() == path.read_bytes()
    server.reset()
    with pytest.raises(DataError, match=r"a/manifest\.json: cannot read"):
        fetch(remote, tmp_path / "here")
    assert read_all(ShardSet(tmp_path / "here")) == read_all(ShardSet(local))
