"""A shard set reads back exactly, without copies, and no changed byte passes."""

import json
import pickle
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
        ({"format_version": 2}, "format_version is 2, this program reads 1"),
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
