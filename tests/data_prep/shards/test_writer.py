"""Documents in are documents in the shard, token for token, and the bytes are always the same."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from data_prep.errors import DataError
from data_prep.shards.schema import ShardFormat
from data_prep.shards.writer import EncodedBatch, EncodedDocument, ShardWriter
from tests.data_prep.shards.encoded import encoded_documents, rebuilt

Form = Callable[..., ShardFormat]


def write(folder: Path, documents: list[EncodedDocument], form: ShardFormat, window: int = 16):  # type: ignore[no-untyped-def]
    folder.mkdir(exist_ok=True)
    shard, listed = folder / "train.parquet", folder / "train.documents.parquet"
    with ShardWriter(shard, listed, form, window) as writer:
        for document in documents:
            writer.add(document)
    return shard, listed, writer.counts


@pytest.mark.parametrize("policy", ["best_fit", "concat"])
@pytest.mark.parametrize("window", [1, 2, 7, 16, 1000])
def test_documents_come_back_token_for_token(
    tmp_path: Path, form: Form, policy: str, window: int
) -> None:
    documents = encoded_documents(90)
    shard, _, counts = write(tmp_path, documents, form(policy=policy), window)
    expected = {document.id: document.tokens.tolist() for document in documents}
    assert rebuilt([shard]) == expected
    assert counts.documents == 90
    assert counts.tokens == sum(len(tokens) for tokens in expected.values())
    assert counts.tokens + counts.padding == counts.rows * 32


@pytest.mark.parametrize("policy", ["best_fit", "concat"])
def test_loss_masks_stay_with_their_tokens(tmp_path: Path, form: Form, policy: str) -> None:
    documents = encoded_documents(60, masked=True)
    shard, _, counts = write(tmp_path, documents, form(policy=policy, has_loss_mask=True))
    masks = {document.id: document.loss_mask for document in documents}
    assert rebuilt([shard], "loss_mask") == {name: list(mask) for name, mask in masks.items()}
    frame = pd.read_parquet(shard)
    trained = sum(int(mask.sum()) for mask in masks.values())
    assert sum(row.sum() for row in frame["loss_mask"]) == trained == counts.trained_tokens


def test_rows_are_full_but_the_last_where_documents_are_cut_anywhere(
    tmp_path: Path, form: Form
) -> None:
    shard, _, counts = write(tmp_path, encoded_documents(90), form(policy="concat"))
    filled = [sum(piece["length"] for piece in row) for row in pd.read_parquet(shard)["documents"]]
    assert filled[:-1] == [32] * (len(filled) - 1)
    assert counts.padding == 32 - filled[-1]


def test_the_list_says_where_every_document_is(tmp_path: Path, form: Form) -> None:
    documents = encoded_documents(90)
    shard, listed, counts = write(tmp_path, documents, form())
    frame, table = pd.read_parquet(shard), pd.read_parquet(listed)
    rows: dict[str, list[int]] = {}
    for number, pieces in enumerate(frame["documents"]):
        for piece in pieces:
            rows.setdefault(piece["id"], []).append(number)
    assert table["id"].tolist() == sorted(document.id for document in documents)
    assert {row["id"]: list(row["rows"]) for _, row in table.iterrows()} == rows
    assert counts.cuts == sum(len(numbers) - 1 for numbers in rows.values())
    by_id = {document.id: document for document in documents}
    for _, row in table.iterrows():
        document = by_id[row["id"]]
        assert (row["tokens"], row["bytes"]) == (len(document.tokens), document.bytes)
        assert (row["pmid"], row["year"]) == (document.metadata["pmid"], document.metadata["year"])
        assert (row["licence"], row["source"]) == ("cc0", "words")


def test_a_list_too_long_to_be_sorted_at_once_is_the_same(
    tmp_path: Path, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = encoded_documents(90)
    _, whole, _ = write(tmp_path / "whole", documents, form())
    monkeypatch.setattr("data_prep.shards.document_list_writer.SORTED_AT_ONCE", 20)
    _, parts, _ = write(tmp_path / "parts", documents, form())
    pd.testing.assert_frame_equal(pd.read_parquet(whole), pd.read_parquet(parts))
    assert {path.name for path in parts.parent.iterdir()} == {
        path.name for path in whole.parent.iterdir()
    }


@pytest.mark.parametrize("policy", ["best_fit", "concat"])
def test_writing_twice_gives_the_same_bytes(tmp_path: Path, form: Form, policy: str) -> None:
    for name in ("first", "second"):
        write(tmp_path / name, encoded_documents(90), form(policy=policy))
    for name in ("train.parquet", "train.documents.parquet"):
        first, second = (tmp_path / folder / name for folder in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()


def test_the_file_alone_says_what_it_is(tmp_path: Path, form: Form, fingerprint: str) -> None:
    shard, _, counts = write(tmp_path, encoded_documents(90), form())
    metadata = pq.read_metadata(shard)
    text = {key.decode(): value.decode() for key, value in metadata.metadata.items()}
    assert text["format_version"] == "2"
    assert text["sequence_length"] == "32"
    assert text["tokenizer_fingerprint"] == fingerprint
    assert (text["vocabulary_size"], text["policy"]) == ("300", "best_fit")
    assert (text["begin_id"], text["end_id"], text["pad_id"]) == ("299", "299", "299")
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert sizes[:-1] == [8] * (len(sizes) - 1)
    assert sum(sizes) == counts.rows


@pytest.mark.parametrize(
    ("vocabulary", "kind"), [(300, "uint16"), (65_536, "uint16"), (65_537, "uint32")]
)
def test_ids_take_two_bytes_where_they_fit(
    tmp_path: Path, form: Form, vocabulary: int, kind: str
) -> None:
    documents = encoded_documents(20, vocabulary=vocabulary)
    documents.append(replace(documents[0], id="x", tokens=np.array([vocabulary - 1])))
    shard, _, _ = write(tmp_path, documents, form(vocabulary_size=vocabulary))
    assert str(pq.read_schema(shard).field("tokens").type.value_type) == kind
    assert rebuilt([shard])["x"] == [vocabulary - 1]


def test_no_documents_no_files(tmp_path: Path, form: Form) -> None:
    write(tmp_path, [], form())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": np.array([1, 300])}, "document a: token id 300, but the vocabulary has 300"),
        ({"tokens": np.array([-1])}, "document a: token id -1"),
        ({"tokens": np.array([], int)}, "document a: no tokens"),
        ({"loss_mask": np.array([True])}, "document a: a loss mask"),
    ],
)
def test_a_document_that_does_not_fit_is_named(
    tmp_path: Path, form: Form, change: dict, message: str
) -> None:
    document = EncodedDocument("a", np.array([1]), "words", 1)
    with pytest.raises(DataError, match=message):
        write(tmp_path, [replace(document, **change)], form())


def test_a_mask_of_another_length_is_refused(tmp_path: Path, form: Form) -> None:
    document = EncodedDocument("a", np.array([1]), "words", 1, {}, np.array([True, False]))
    with pytest.raises(DataError, match="2 loss mask values for 1 tokens"):
        write(tmp_path, [document], form(has_loss_mask=True))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("together", [2, 17, 90])
def test_the_bytes_do_not_depend_on_how_many_documents_come_at_once(
    tmp_path: Path, form: Form, together: int, masked: bool
) -> None:
    documents = encoded_documents(90, masked=masked)
    wanted = form(has_loss_mask=masked)
    shard, listed, counts = write(tmp_path / "one by one", documents, wanted)
    (tmp_path / "together").mkdir()
    other = [tmp_path / "together" / path.name for path in (shard, listed)]
    with ShardWriter(other[0], other[1], wanted, 16) as writer:
        for begin in range(0, 90, together):
            writer.add_batch(EncodedBatch.of(documents[begin : begin + together]))
    assert [path.read_bytes() for path in other] == [path.read_bytes() for path in (shard, listed)]
    assert writer.counts == counts


def test_of_documents_at_once_the_one_that_does_not_fit_is_named(
    tmp_path: Path, form: Form
) -> None:
    documents = [EncodedDocument(name, np.array([1, 2]), "words", 1) for name in "abc"]
    documents[1] = replace(documents[1], tokens=np.array([5, 300]))
    shard = ShardWriter(tmp_path / "a.parquet", tmp_path / "b.parquet", form(), 16)
    with pytest.raises(DataError, match="document b: token id 300"):
        shard.add_batch(EncodedBatch.of(documents))
    documents[2] = replace(documents[2], loss_mask=np.array([True, False]))
    with pytest.raises(DataError, match="document a: no loss mask, and others"):
        EncodedBatch.of(documents)
