"""A set fetched to local disk appears whole or not at all, and what came once is not fetched again."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.download.transfer import Patience
from data_prep.errors import ConfigError, DataError
from data_prep.files import sha256_file
from data_prep.lock import FolderLock
from data_prep.shards.manifest import Manifest
from data_prep.shards.reader import ShardSet
from data_prep.shards.storage import LocalStorage, UnreadableError
from data_prep.shards.tools import fetch as fetch_module
from data_prep.shards.tools.fetch import fetch
from tests.data_prep.shards.encoded import encoded_documents
from tests.tiny import ENVIRONMENT, ROOT

MakeSet = Callable[..., Manifest]
HASTY = Patience(attempts=3, first_s=0.01, longest_s=0.01)


class Counting(LocalStorage):
    """Counts the bytes read by file, and fails after so many in all."""

    def __init__(self, folder: Path, until: int | None = None):
        super().__init__(folder)
        self.read_of: Counter[str] = Counter()
        self.until = until

    def read(self, name: str, begin: int, end: int) -> bytes:
        if self.until is not None and self.read_of.total() + end - begin > self.until:
            raise UnreadableError("cannot read (gone)", "plug it in")
        self.read_of[name] += end - begin
        return super().read(name, begin, end)


@pytest.fixture
def origin(tmp_path: Path, make_set: MakeSet, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(fetch_module, "_CHUNK", 1000)
    make_set(tmp_path / "origin", encoded_documents(300))
    return tmp_path / "origin"


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_fetched_set_is_the_set_byte_for_byte(tmp_path: Path, origin: Path) -> None:
    storage = Counting(origin)
    manifest = fetch(storage, tmp_path / "here/set")
    assert files(tmp_path / "here/set") == files(origin)
    assert ShardSet(tmp_path / "here/set").manifest == manifest
    assert storage.read_of == {
        name: len(content) for name, content in files(origin).items() if name != "manifest.json"
    }


def test_a_stopped_fetch_goes_on_from_the_byte_it_reached(tmp_path: Path, origin: Path) -> None:
    target = tmp_path / "here"
    first = Counting(origin, until=10_000)
    with pytest.raises(DataError, match=r"origin/.*: cannot read \(gone\); plug it in"):
        fetch(first, target)
    assert not (target / "manifest.json").exists()
    with pytest.raises(DataError, match="folder of a shard set"):
        ShardSet(target)
    second = Counting(origin)
    fetch(second, target)
    assert files(target) == files(origin)
    both = first.read_of + second.read_of
    assert both == {name: len(c) for name, c in files(origin).items() if name != "manifest.json"}


def test_only_what_is_missing_or_damaged_is_fetched_again(tmp_path: Path, origin: Path) -> None:
    target = tmp_path / "here"
    fetch(origin, target)
    (target / "tokenizer/tokenizer.json").unlink()
    damaged = bytearray((target / "documents.parquet").read_bytes())
    damaged[50] ^= 1
    (target / "documents.parquet").write_bytes(damaged)
    storage = Counting(origin)
    fetch(storage, target)
    assert set(storage.read_of) == {"tokenizer/tokenizer.json", "documents.parquet"}
    assert files(target) == files(origin)
    again = Counting(origin)
    fetch(again, target)
    assert not again.read_of


def test_bytes_of_another_state_of_the_set_are_not_gone_on_with(
    tmp_path: Path, origin: Path, make_set: MakeSet
) -> None:
    target = tmp_path / "here"
    with pytest.raises(DataError):
        fetch(Counting(origin, until=10_000), target)
    make_set(tmp_path / "new", encoded_documents(300, seed=5))
    fetch(tmp_path / "new", target)
    assert files(target) == files(tmp_path / "new")


def test_a_damaged_part_is_fetched_from_the_start(tmp_path: Path, origin: Path) -> None:
    target = tmp_path / "here"
    with pytest.raises(DataError):
        fetch(Counting(origin, until=10_000), target)
    for part in target.rglob(".*.part"):
        part.write_bytes(b"?" * part.stat().st_size)
    fetch(origin, target)
    assert files(target) == files(origin)


def test_a_damaged_file_at_the_origin_never_becomes_a_set(tmp_path: Path, origin: Path) -> None:
    content = bytearray((origin / "shard.parquet").read_bytes())
    content[50] ^= 1
    (origin / "shard.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"shard\.parquet: what came is not the file"):
        fetch(origin, tmp_path / "here")
    assert not (tmp_path / "here/manifest.json").exists()
    assert not (tmp_path / "here/shard.parquet").exists()


def test_a_folder_with_another_set_is_left_alone(
    tmp_path: Path, origin: Path, make_set: MakeSet
) -> None:
    make_set(tmp_path / "other", encoded_documents(5))
    before = files(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"other holds another set than .*origin"):
        fetch(origin, tmp_path / "other")
    assert files(tmp_path / "other") == before


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, origin: Path) -> None:
    manifest = Manifest.read(origin)
    (tmp_path / "outside.json").write_text("{}")
    outside = {"../../outside.json": sha256_file(tmp_path / "outside.json")}
    Manifest.model_validate(manifest.model_dump() | {"tokenizer": outside}).write(origin)
    with pytest.raises(DataError, match="leads out of the folder"):
        fetch(origin, tmp_path / "deep/here")
    assert not (tmp_path / "deep/outside.json").exists()


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "data_prep", "fetch", *map(str, arguments)]
    return subprocess.run(
        words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_command_copies_and_fails_in_one_line(tmp_path: Path, origin: Path) -> None:
    ended = command(origin, tmp_path / "here")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"{tmp_path / 'here'}: 4 files, whole\n"
    assert files(tmp_path / "here") == files(origin)
    wrong = command(origin)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("fetch: expected SHARD_SET OUT after it")
    missing = command(tmp_path / "nothing", tmp_path / "there")
    assert missing.returncode == 1
    assert missing.stderr.count("\n") == 1
    assert "nothing/manifest.json: cannot read" in missing.stderr


def test_a_second_fetch_into_one_folder_is_refused(
    tmp_path: Path, origin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holding = (
        "import sys, time; from pathlib import Path; from data_prep.lock import FolderLock\n"
        "lock = FolderLock(Path(sys.argv[1]), 'fetch'); lock.acquire(0); print('held', flush=True)\n"
        "time.sleep(60)"
    )
    target = tmp_path / "here"
    words = [sys.executable, "-c", holding, str(target)]
    owner = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        monkeypatch.setattr(fetch_module, "_LOCK_WAIT_S", 0.1)
        with pytest.raises(DataError, match=rf"here is in use by process {owner.pid}"):
            fetch(origin, target)
    finally:
        owner.kill()
        owner.wait()
    fetch(origin, target)
    assert FolderLock(target, "fetch").path.exists() is False
