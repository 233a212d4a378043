"""Copies of checkpoints: complete or not counted, kept by the same policy, fetched where the run's own are lost."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_prep.errors import ConfigError, DataError, ProjectError
from data_prep.files import sha256_file
from data_prep.lock import FolderLock
from pretrain.checkpoints.checkpoint import Checkpoints
from pretrain.checkpoints.copy import CheckpointCopy, Remote, copy
from pretrain.checkpoints.layout import layout_of
from pretrain.checkpoints.names import MANIFEST, name_of, saved_steps
from tests.data_prep.shards.range_server import BUCKET, RangeServer

LAYOUT = layout_of({"zero_optimization": {"stage": 3}}, "adamw", 1)


def checkpoint(folder: Path, step: int, content: str = "") -> Path:
    """A checkpoint's folder as any other, except that its tensors are a few words."""
    path = folder / name_of(step)
    files = {"state.json": json.dumps({"step": step}), "optimizer.pt": f"{step} {content}"}
    for name, text in (files | {"below/swapped.pt": "swapped"}).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    names = [*files, "below/swapped.pt"]
    about = {
        name: {"bytes": (path / name).stat().st_size, "sha256": sha256_file(path / name)}
        for name in names
    }
    (path / MANIFEST).write_text(json.dumps(about))
    return path


@pytest.fixture(scope="module")
def server() -> Iterator[RangeServer]:
    server = RangeServer()
    yield server
    server.close()


@pytest.fixture(params=["file", "s3"])
def url(request, tmp_path: Path, server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/remote/run"
    server.reset()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/runs/one"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_is_copied_by_the_process_comes_back_the_same(url, folder, tmp_path, alone):
    for step in (5, 10):
        checkpoint(folder, step)
    copier = CheckpointCopy(folder, url, keep=2, keep_every=None)
    assert copier.start() is None
    assert copier.finish() is None
    lost = tmp_path / "lost"
    checkpoints = Checkpoints(lost, alone, LAYOUT, keep=2, copy_to=url)
    checkpoints.prepare()
    found, said = checkpoints.newest()
    assert found == lost / name_of(10)
    assert found is not None
    assert contents(found) == contents(folder / name_of(10))
    assert said == [
        f"step-00000010 was fetched from {url}: there was no whole one here",
    ]
    assert checkpoints.newest() == (found, [])  # it is here now


def test_a_copy_that_does_not_fit_is_not_begun(url, folder, tmp_path, alone, monkeypatch):
    path = checkpoint(folder, 5)
    copy(folder, Remote(url), keep=2, keep_every=None)
    size = sum(map(len, contents(path).values()))
    usage = shutil.disk_usage(tmp_path)
    lost = tmp_path / "lost"
    checkpoints = Checkpoints(lost, alone, LAYOUT, keep=2, copy_to=url)
    checkpoints.prepare()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=size - 1))
    with pytest.raises(ProjectError, match=r"has 0\.00 GB free, the copy of step 5 in .* needs"):
        checkpoints.newest()
    assert list(lost.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=size))
    assert checkpoints.newest()[0] == lost / name_of(5)


def test_copies_are_kept_by_the_same_policy_and_saved_again_after_a_roll_back(url, folder):
    remote = Remote(url)
    for step in range(1, 8):
        checkpoint(folder, step)
        copy(folder, remote, keep=2, keep_every=3)
    assert remote.steps() == [7, 6, 3]
    again = checkpoint(folder, 7, "after a roll-back")
    copy(folder, remote, keep=2, keep_every=3)
    assert remote.manifest(7) == (again / MANIFEST).read_bytes()
    left = {name.split("/")[0] for step in (1, 2, 4, 5) for name in remote.names(step)}
    assert not left


def test_a_copy_without_its_manifest_does_not_count(url, folder, tmp_path, alone):
    for step in (5, 10):
        checkpoint(folder, step)
    remote = Remote(url)
    copy(folder, remote, keep=2, keep_every=None)
    remote.remove_manifest(10)
    assert remote.steps() == [5]
    checkpoints = Checkpoints(tmp_path / "lost", alone, LAYOUT, keep=2, copy_to=url)
    checkpoints.prepare()
    assert checkpoints.newest()[0] == tmp_path / "lost" / name_of(5)


def test_a_damaged_copy_is_passed_over_and_the_older_one_fetched(url, folder, tmp_path, alone):
    for step in (5, 10):
        checkpoint(folder, step)
    (folder / name_of(10) / "optimizer.pt").write_text("changed")
    copy(folder, Remote(url), keep=2, keep_every=None)
    checkpoints = Checkpoints(tmp_path / "lost", alone, LAYOUT, keep=2, copy_to=url)
    checkpoints.prepare()
    found, said = checkpoints.newest()
    assert found == tmp_path / "lost" / name_of(5)
    assert "step-00000010 is damaged and is passed over: optimizer.pt has 7 bytes" in said[0]
    checkpoints.prepare()
    assert not list((tmp_path / "lost").glob(".*"))


def test_a_place_where_nothing_is_copied_yet_is_a_run_that_begins(url, tmp_path, alone):
    checkpoints = Checkpoints(tmp_path / "new", alone, LAYOUT, keep=2, copy_to=url)
    checkpoints.prepare()
    assert checkpoints.newest() == (None, [])


def test_a_failed_copy_is_a_warning_and_is_made_up_for_with_the_next_save(folder, tmp_path):
    remote = tmp_path / "remote"
    copier = CheckpointCopy(folder, f"file://{remote}", keep=2, keep_every=None)
    shutil.rmtree(remote)
    remote.write_text("a file where the folder belongs")
    checkpoint(folder, 5)
    copier.start()
    warning = copier.finish()
    assert warning is not None
    assert f"checkpoint.copy_to: file://{remote}" in warning
    assert "tried again with the next checkpoint" in warning
    assert "\n" not in warning
    remote.unlink()
    checkpoint(folder, 10)
    copier.start()
    assert copier.finish() is None
    assert saved_steps(remote) == [10, 5]


def test_a_save_during_a_copy_does_not_wait_and_is_copied_in_the_end(folder, tmp_path):
    lock = FolderLock(folder, "a copier of an earlier start")
    lock.acquire(0)  # it keeps the process waiting
    copier = CheckpointCopy(folder, f"file://{tmp_path}/remote", keep=3, keep_every=None)
    checkpoint(folder, 5)
    copier.start()
    checkpoint(folder, 10)
    assert copier.start() is None  # at once
    assert lock._stream is not None
    lock._stream.close()
    assert copier.finish() is None
    assert saved_steps(tmp_path / "remote") == [10, 5]


def test_a_checkpoint_that_goes_while_it_is_copied_is_no_failure(folder, tmp_path, monkeypatch):
    remote = Remote(f"file://{tmp_path}/remote")
    for step in (5, 10):
        checkpoint(folder, step)
    put = remote.put

    def put_late(step: int, local: Path) -> None:
        if step == 5:  # the run has saved 15 and 20 meanwhile
            shutil.rmtree(local)
        put(step, local)

    monkeypatch.setattr(remote, "put", put_late)
    copy(folder, remote, keep=2, keep_every=None)
    assert remote.steps() == [10]


@pytest.mark.parametrize(
    "url", ["https://example.org/run", "folder/run", "memory://run", "nothing://run"]
)
def test_a_url_that_cannot_be_written_is_refused_in_one_line(url):
    with pytest.raises(ConfigError, match=r"^checkpoint\.copy_to: .*written") as caught:
        Remote(url)
    assert "\n" not in str(caught.value)


def test_a_place_that_cannot_be_reached_stops_the_start(folder, alone, url, monkeypatch):
    if url.startswith("file"):
        Path(url.removeprefix("file://")).parent.write_text("no folder")
    else:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nothing listens there
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        checkpoints = Checkpoints(folder, alone, LAYOUT, keep=2, copy_to=url)
        with pytest.raises(DataError, match=r"^checkpoint\.copy_to: .* cannot be listed"):
            checkpoints.newest()
    with pytest.raises(DataError, match=r"^checkpoint\.copy_to: .* cannot be written"):
        CheckpointCopy(folder, url, keep=2, keep_every=None)


def test_a_bucket_that_is_not_there_is_found_at_the_start(url, folder):
    if url.startswith("s3"):
        with pytest.raises(DataError, match="cannot be written"):
            CheckpointCopy(folder, "s3://another-bucket/run", keep=2, keep_every=None)
