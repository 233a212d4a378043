"""The documents of a shard set come back whole."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.errors import DataError
from data_prep.files import sha256_file
from data_prep.shards import unpack
from data_prep.shards.encoded import METADATA
from data_prep.shards.manifest import DOCUMENTS_FILE, Manifest
from data_prep.shards.reader import ShardSet
from data_prep.shards.tools.merge import merge
from data_prep.shards.unpack import documents_of
from data_prep.shards.writer import EncodedDocument
from tests.data_prep.shards.encoded import encoded_documents

MakeSet = Callable[..., Manifest]


def unpacked(folder: Path) -> list[EncodedDocument]:
    """The documents one by one, in the order in which they come."""
    found = []
    for batch in documents_of(ShardSet(folder)):
        for row, about in enumerate(batch.about.to_pylist()):
            here = slice(*batch.starts[row : row + 2])
            mask = None if batch.loss_mask is None else batch.loss_mask[here]
            metadata = {name: about[name] for name in METADATA}
            document = EncodedDocument(
                about["id"], batch.tokens[here], about["source"], about["bytes"], metadata, mask
            )
            found.append(document)
    return found


def as_plain(document: EncodedDocument) -> tuple:
    return (
        document.id,
        document.tokens.tolist(),
        document.source,
        document.bytes,
        {name: document.metadata.get(name) for name in METADATA},
        None if document.loss_mask is None else document.loss_mask.tolist(),
    )


def in_order_of_ids(documents: Sequence[EncodedDocument]) -> list[tuple]:
    return sorted(map(as_plain, documents), key=lambda plain: plain[0])


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    documents=st.integers(1, 90),
    seed=st.integers(0, 1000),
    longest=st.sampled_from([1, 20, 400]),
    length=st.sampled_from([8, 33, 500]),
    window=st.sampled_from([1, 5, 64]),
    policy=st.sampled_from(["best_fit", "concat"]),
    masked=st.booleans(),
    together=st.sampled_from([1, 7, 1 << 20]),
)
def test_every_document_comes_back_with_all_its_tokens_and_metadata(
    make_set: MakeSet,
    tmp_path_factory: pytest.TempPathFactory,
    documents: int,
    seed: int,
    longest: int,
    length: int,
    window: int,
    policy: str,
    masked: bool,
    together: int,
) -> None:
    folder = tmp_path_factory.mktemp("unpack") / "set"
    given_ = encoded_documents(documents, seed, longest, masked)
    make_set(folder, given_, window, sequence_length=length, policy=policy, has_loss_mask=masked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unpack, "ROWS_AT_ONCE", together)
        found = unpacked(folder)
    assert in_order_of_ids(found) == in_order_of_ids(given_)


def test_documents_laid_end_to_end_come_back_in_their_order(
    make_set: MakeSet, tmp_path: Path
) -> None:
    given_ = encoded_documents(200, seed=3)
    make_set(tmp_path / "set", given_, policy="concat")
    assert [document.id for document in unpacked(tmp_path / "set")] == [
        document.id for document in given_
    ]


def test_a_set_of_several_files_is_unpacked_as_one(make_set: MakeSet, tmp_path: Path) -> None:
    given_ = encoded_documents(120, seed=1)
    make_set(tmp_path / "a", given_[:50])
    make_set(tmp_path / "b", given_[50:])
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    assert in_order_of_ids(unpacked(tmp_path / "both")) == in_order_of_ids(given_)


def test_temporary_files_lie_where_they_shall_and_are_removed(
    make_set: MakeSet, tmp_path: Path
) -> None:
    make_set(tmp_path / "set", encoded_documents(100))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    batches = documents_of(ShardSet(tmp_path / "set"), scratch)
    next(batches)
    assert list(scratch.rglob("*.arrow"))
    list(batches)
    assert not list(scratch.iterdir())


def test_windows_of_documents_are_not_taken_for_documents(
    make_set: MakeSet, tmp_path: Path
) -> None:
    make_set(tmp_path / "set", encoded_documents(20), policy="per_document", epochs=2)
    with pytest.raises(DataError, match=r"per_document.*take a set"):
        list(documents_of(ShardSet(tmp_path / "set")))


def change_list(folder: Path, listed: pd.DataFrame) -> None:
    """Put another documents.parquet into a set, and its hash into the manifest."""
    listed.to_parquet(folder / DOCUMENTS_FILE)
    manifest = Manifest.read(folder)
    new = {"documents_sha256": sha256_file(folder / DOCUMENTS_FILE)}
    Manifest.model_validate(manifest.model_dump() | new).write(folder)


def test_a_list_that_was_changed_is_refused(make_set: MakeSet, tmp_path: Path) -> None:
    make_set(tmp_path / "set", encoded_documents(20))
    path = tmp_path / "set" / DOCUMENTS_FILE
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataError, match=r"documents\.parquet: missing or not the file"):
        list(documents_of(ShardSet(tmp_path / "set")))


@pytest.mark.parametrize("fault", ["tokens", "absent", "row"])
def test_rows_and_a_list_that_disagree_are_an_error(
    make_set: MakeSet, tmp_path: Path, fault: str
) -> None:
    folder = tmp_path / "set"
    make_set(folder, encoded_documents(40))
    listed = pd.read_parquet(folder / DOCUMENTS_FILE)
    if fault == "tokens":
        listed.loc[7, "tokens"] += 1
    elif fault == "absent":
        listed = listed.drop(index=7)
    else:
        listed["rows"] = [np.array([10_000])] * len(listed)
    change_list(folder, listed)
    with pytest.raises(DataError, match=r"do not hold the tokens|a row that the set does not have"):
        list(documents_of(ShardSet(folder)))
