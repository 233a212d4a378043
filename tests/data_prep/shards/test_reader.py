"""A shard set reads back exactly, without copies, and no changed byte passes."""

import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_prep.errors import DataError
from data_prep.files import sha256_file, write_json
from data_prep.shards.manifest import Manifest
from data_prep.shards.reader import ShardSet
from tests.data_prep.shards.encoded import encoded_documents, rebuilt
from tests.tiny import ROOT

MakeSet = Callable[..., Manifest]


def read_all(folder: Path) -> list[np.ndarray]:
    shards = ShardSet(folder)
    return [shards.read(group).tokens for group in range(len(shards.row_groups))]


@pytest.mark.parametrize("masked", [False, True])
def test_row_groups_hold_what_pandas_reads(tmp_path: Path, make_set: MakeSet, masked: bool) -> None:
    folder = tmp_path / "set"
    manifest = make_set(folder, encoded_documents(90, masked=masked), has_loss_mask=masked)
    shards = ShardSet(folder)
    frame = pd.concat([pd.read_parquet(folder / file.name) for file in manifest.files])
    assert shards.row_groups.dtype == np.int64
    assert shards.row_groups.sum() == len(frame) == manifest.counts["rows"]
    first = 0
    for group, rows in enumerate(shards.row_groups.tolist()):
        content, ids = shards.read(group), shards.document_ids(group)
        part = frame.iloc[first : first + rows]
        assert content.tokens.dtype == np.uint16
        assert content.tokens.tolist() == [row.tolist() for row in part["tokens"]]
        for row, pieces in enumerate(part["documents"]):
            mine = slice(content.starts[row], content.starts[row + 1])
            assert ids[row] == [piece["id"] for piece in pieces]
            assert content.offsets[mine].tolist() == [piece["offset"] for piece in pieces]
            assert content.lengths[mine].tolist() == [piece["length"] for piece in pieces]
        if masked:
            assert content.loss_mask.tolist() == [row.tolist() for row in part["loss_mask"]]
        else:
            assert content.loss_mask is None
        first += rows


def test_a_set_holds_every_document_and_lists_it(tmp_path: Path, make_set: MakeSet) -> None:
    documents = encoded_documents(90)
    manifest = make_set(tmp_path / "set", documents)
    files = [tmp_path / "set" / file.name for file in manifest.files]
    assert rebuilt(files) == {document.id: document.tokens.tolist() for document in documents}
    listed = ShardSet(tmp_path / "set").documents()
    assert listed["id"].to_pylist() == sorted(document.id for document in documents)
    assert manifest.counts["documents"] == 90


def test_tokens_are_views_of_what_was_decoded(tmp_path: Path, make_set: MakeSet) -> None:
    make_set(tmp_path / "set", encoded_documents(30))
    content = ShardSet(tmp_path / "set").read(0)
    for array in (content.tokens, content.offsets, content.lengths):
        assert not array.flags.owndata


def test_a_set_can_be_sent_to_another_process(tmp_path: Path, make_set: MakeSet) -> None:
    make_set(tmp_path / "set", encoded_documents(30))
    shards = ShardSet(tmp_path / "set")
    again = pickle.loads(pickle.dumps(shards))
    assert np.array_equal(again.read(0).tokens, shards.read(0).tokens)


def test_sets_of_the_same_documents_are_equal_wherever_they_lie(
    tmp_path: Path, make_set: MakeSet
) -> None:
    first, second = (make_set(tmp_path / name, encoded_documents(90)) for name in ("a", "b/c"))
    assert first.hash == second.hash
    for path in (tmp_path / "a").rglob("*"):
        if path.is_file():
            other = tmp_path / "b/c" / path.relative_to(tmp_path / "a")
            assert other.read_bytes() == path.read_bytes()
    assert make_set(tmp_path / "d", encoded_documents(91)).hash != first.hash


def test_a_changed_byte_anywhere_in_a_shard_is_noticed(tmp_path: Path, make_set: MakeSet) -> None:
    folder = tmp_path / "set"
    manifest = make_set(folder, encoded_documents(24), sequence_length=16)
    shard = folder / manifest.files[0].name
    whole = shard.read_bytes()
    for place in range(0, len(whole), 7):
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(DataError, match=r"shard\.parquet: .*run the stage pack again"):
            read_all(folder)
    shard.write_bytes(whole)
    read_all(folder)


def test_the_message_names_the_row_group_whose_byte_changed(
    tmp_path: Path, make_set: MakeSet
) -> None:
    folder = tmp_path / "set"
    make_set(folder, encoded_documents(90))
    shard = folder / "shard.parquet"
    whole = bytearray(shard.read_bytes())
    # The middle of the file is in a middle row group; those before it still read.
    whole[len(whole) // 2] ^= 1
    shard.write_bytes(whole)
    shards = ShardSet(folder)
    shards.read(0)
    messages = {}
    for group in range(len(shards.row_groups)):
        try:
            shards.read(group)
        except DataError as error:
            messages[group] = str(error)
    (broken, message), *others = messages.items()
    assert f"shard.parquet: row group {broken}: checksum" in message
    assert others == []


@pytest.mark.parametrize("damage", ["cut", "longer", "empty", "gone"])
def test_a_file_of_another_size_is_noticed_on_opening(
    tmp_path: Path, make_set: MakeSet, damage: str
) -> None:
    folder = tmp_path / "set"
    make_set(folder, encoded_documents(30))
    shard = folder / "shard.parquet"
    whole = shard.read_bytes()
    changed = {"cut": whole[:-100], "longer": whole + b"PAR1", "empty": b""}
    if damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(changed[damage])
    with pytest.raises(DataError, match=r"shard\.parquet: "):
        ShardSet(folder)


def test_another_file_under_the_same_name_is_noticed(tmp_path: Path, make_set: MakeSet) -> None:
    for seed in (1, 2):
        make_set(tmp_path / str(seed), encoded_documents(30, seed=seed))
    (tmp_path / "2/shard.parquet").replace(tmp_path / "1/shard.parquet")
    with pytest.raises(DataError, match=r"1/shard\.parquet: "):
        ShardSet(tmp_path / "1")


def test_a_manifest_changed_by_hand_is_refused(tmp_path: Path, make_set: MakeSet) -> None:
    make_set(tmp_path / "set", encoded_documents(30))
    path = tmp_path / "set" / "manifest.json"
    content = json.loads(path.read_text())
    write_json(path, content | {"end_id": 3})
    with pytest.raises(DataError, match="changed by hand"):
        ShardSet(tmp_path / "set")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 1}, "format_version is 1, this program reads 2"),
        ({"sequence_length": "many"}, "manifest.json: sequence_length: "),
        ({"extra": 1}, "manifest.json: extra: "),
    ],
)
def test_a_manifest_of_another_kind_is_refused_with_the_field(
    tmp_path: Path, make_set: MakeSet, change: dict, message: str
) -> None:
    make_set(tmp_path / "set", encoded_documents(30))
    path = tmp_path / "set" / "manifest.json"
    write_json(path, json.loads(path.read_text()) | change)
    with pytest.raises(DataError, match=message):
        ShardSet(tmp_path / "set")


def test_a_folder_that_is_no_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.json: cannot read .* folder of a shard set"):
        ShardSet(tmp_path)


def test_a_changed_list_of_documents_is_refused(tmp_path: Path, make_set: MakeSet) -> None:
    make_set(tmp_path / "set", encoded_documents(30))
    path = tmp_path / "set" / "documents.parquet"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataError, match=r"documents\.parquet: .*not the file"):
        ShardSet(tmp_path / "set").documents()


def test_the_set_of_another_tokenizer_is_told_by_its_fingerprint(
    tmp_path: Path, make_set: MakeSet, fingerprint: str
) -> None:
    make_set(tmp_path / "mine", encoded_documents(5))
    make_set(tmp_path / "other", encoded_documents(5), tokenizer_fingerprint="0" * 64)
    assert ShardSet(tmp_path / "mine").manifest.tokenizer_fingerprint == fingerprint
    assert ShardSet(tmp_path / "other").manifest.tokenizer_fingerprint != fingerprint


def test_the_manifest_names_its_files_by_their_hashes(tmp_path: Path, make_set: MakeSet) -> None:
    folder = tmp_path / "set"
    manifest = make_set(folder, encoded_documents(5))
    assert [file.sha256 for file in manifest.files] == [sha256_file(folder / "shard.parquet")]
    assert manifest.documents_sha256 == sha256_file(folder / "documents.parquet")
    assert manifest.inputs_sha256 == sha256_file(folder / "inputs.parquet")
    assert manifest.tokenizer == {
        "tokenizer.json": sha256_file(folder / "tokenizer" / "tokenizer.json")
    }
    assert str(tmp_path) not in (folder / "manifest.json").read_text()


def with_files(manifest: Manifest, folder: Path, number: int) -> Manifest:
    """The set of one file in `folder` made into one of many: links to that file."""
    (file,) = manifest.files
    files = [file.model_copy(update={"name": f"{index:04}.parquet"}) for index in range(number)]
    for each in files:
        os.link(folder / file.name, folder / each.name)
    manifest = Manifest.model_validate(manifest.model_dump() | {"files": files})
    manifest.write(folder)
    return manifest


def test_a_set_may_have_more_files_than_a_process_may_open(
    tmp_path: Path, make_set: MakeSet
) -> None:
    folder = tmp_path / "set"
    with_files(make_set(folder, encoded_documents(8)), folder, 300)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        shards = ShardSet(folder)
        found = [shards.read(group).tokens.tolist() for group in range(len(shards.row_groups))]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    groups = len(found) // 300
    assert found == found[:groups] * 300
    assert shards.place(len(found) - 1) == (folder / "0299.parquet", groups - 1)
    (folder / "0123.parquet").unlink()
    with pytest.raises(DataError, match=r"0123\.parquet: cannot read"):
        ShardSet(folder)
    with pytest.raises(DataError, match=rf"0123\.parquet: row group {groups - 1}: cannot read"):
        shards.read(124 * groups - 1)


def test_row_groups_of_each_epoch_take_turns_in_a_file(tmp_path: Path, make_set: MakeSet) -> None:
    folder = tmp_path / "set"
    manifest = make_set(folder, encoded_documents(8), row_group=16)
    (file,) = manifest.files
    settings = {"policy": "per_document", "epochs": 3}
    values = manifest.model_dump() | settings
    Manifest.model_validate(values | {"files": [file.model_copy(update={"rows": 3 * 35})]}).write(
        folder
    )
    assert ShardSet(folder).row_groups.tolist() == [16, 16, 16, 16, 16, 16, 3, 3, 3]


REBUILDING = """
import shutil, sys, time
from pathlib import Path
from data_prep.files import folder_atomically
target, *origins = map(Path, sys.argv[1:])
while True:
    for origin in origins:
        with folder_atomically(target) as partial:
            shutil.copytree(origin, partial, dirs_exist_ok=True)
        time.sleep(0.02)  # about as long as the set takes to be read
"""


def test_a_reader_during_rebuilds_sees_one_set_or_is_told(
    tmp_path: Path, make_set: MakeSet
) -> None:
    """Sizes, files and manifest of two sets take turns, as fast as a process can write them."""
    target, origins, whole = tmp_path / "set", [], []
    for seed in (1, 2):
        origins.append(tmp_path / f"origin-{seed}")
        with_files(make_set(origins[-1], encoded_documents(60, seed=seed)), origins[-1], 8)
        whole.append([tokens.tolist() for tokens in read_all(origins[-1])])
    shutil.copytree(origins[0], target)
    builder = subprocess.Popen([sys.executable, "-c", REBUILDING, target, *origins], cwd=ROOT)
    read, refusals = 0, set()
    deadline = time.monotonic() + 60
    try:
        while read < 10 or not refusals:
            assert time.monotonic() < deadline
            shards = ShardSet(target)
            time.sleep(0.002 * (read % 5))
            shards = pickle.loads(pickle.dumps(shards))  # as a worker gets it
            try:
                groups = range(len(shards.row_groups))
                found = [shards.read(group).tokens.tolist() for group in groups]
            except DataError as error:
                refusals.add(str(error))
            else:
                assert found in whole
                read += 1
    finally:
        builder.send_signal(signal.SIGKILL)
        builder.wait()
    assert refusals == {f"{target}: the set was replaced while it was read: start again"}


def test_a_set_put_elsewhere_and_opened_by_another_process_is_the_same_or_refused(
    tmp_path: Path, make_set: MakeSet
) -> None:
    for seed in (1, 2):
        make_set(tmp_path / str(seed), encoded_documents(60, seed=seed))
    pickled = pickle.dumps(ShardSet(tmp_path / "1"))
    shutil.rmtree(tmp_path / "1")
    (tmp_path / "2").rename(tmp_path / "1")
    with pytest.raises(DataError, match=r"/1: the set was replaced while it was read: start again"):
        pickle.loads(pickled).read(0)


def test_a_missing_file_is_an_error_at_once_or_only_of_its_row_groups(
    tmp_path: Path, make_set: MakeSet
) -> None:
    with_files(make_set(tmp_path / "set", encoded_documents(60)), tmp_path / "set", 3)
    whole = ShardSet(tmp_path / "set")
    missing = whole.manifest.files[1].name
    (tmp_path / "set" / missing).unlink()
    with pytest.raises(DataError, match=missing):
        ShardSet(tmp_path / "set")
    shards = ShardSet(tmp_path / "set", whole=False)
    for group in range(len(shards.row_groups)):
        path, number = shards.place(group)
        if str(path).endswith(missing):
            with pytest.raises(DataError, match=rf"{missing}: row group {number}: cannot read"):
                shards.read(group)
        else:
            assert len(shards.read(group).tokens) == whole.row_groups[group]


def test_reading_imports_nothing_that_takes_time(tmp_path: Path, make_set: MakeSet) -> None:
    make_set(tmp_path / "set", encoded_documents(30))
    script = (
        "import sys; from data_prep.shards.reader import ShardSet\n"
        f"shards = ShardSet({str(tmp_path / 'set')!r}); shards.read(0)\n"
        "slow = ('pandas', 'pyarrow.compute', 'fsspec', 'httpx2', 'aiohttp')\n"
        "print([name for name in slow if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize("files", [[], [{"name": "../elsewhere.parquet"}]])
def test_a_manifest_without_files_or_with_one_elsewhere_is_refused(
    tmp_path: Path, make_set: MakeSet, files: list[dict]
) -> None:
    make_set(tmp_path / "set", encoded_documents(30))
    path = tmp_path / "set" / "manifest.json"
    fields = json.loads(path.read_text())
    fields["files"] = [fields["files"][0] | file for file in files]
    path.write_text(json.dumps(fields))
    with pytest.raises(DataError, match=r"manifest.json: files"):
        ShardSet(tmp_path / "set")
