"""What holds for every corpus and every setting of packing, read back row by row by plain pyarrow."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.shards.packing import shuffle, window_packer
from data_prep.shards.schema import ShardFormat
from data_prep.shards.writer import EncodedBatch, EncodedDocument, ShardCounts, ShardWriter

PAD, VOCABULARY = 299, 300
FILES = ("shard.parquet", "documents.parquet")
Row = dict[str, Any]


@dataclass(frozen=True)
class Packing:
    """Settings of a shard; `batches` are how many documents come at once, over and over."""

    form: ShardFormat
    window: int
    window_tokens: int
    min_tokens: int
    shuffle_documents: int
    seed: int
    batches: list[int]


@st.composite
def packings(draw: st.DrawFn, policies: Sequence[str]) -> Packing:
    policy = draw(st.sampled_from(policies))
    form = ShardFormat.model_validate(
        {
            "sequence_length": draw(st.integers(1, 24)),
            "row_group": draw(st.integers(1, 8)),
            "policy": policy,
            "epochs": draw(st.integers(1, 4)) if policy == "per_document" else 1,
            "vocabulary_size": VOCABULARY,
            "tokenizer_fingerprint": "none",
            "begin_token": False,
            "begin_id": None,
            "end_id": PAD,
            "pad_id": PAD,
            "has_loss_mask": draw(st.booleans()),
        }
    )
    return Packing(
        form,
        window=draw(st.integers(1, 20)),
        window_tokens=draw(st.sampled_from([1, 30, 200, 1 << 24])),
        min_tokens=draw(st.integers(1, 6)),
        shuffle_documents=draw(st.integers(0, 12)),
        seed=draw(st.integers(0, 3)),
        batches=draw(st.lists(st.integers(1, 20), min_size=1, max_size=4)),
    )


LENGTHS = st.lists(st.one_of(st.integers(1, 12), st.integers(1, 70)), max_size=50)


def corpus(lengths: Sequence[int], masked: bool) -> list[EncodedDocument]:
    random = np.random.default_rng(len(lengths))
    return [
        EncodedDocument(
            f"pmid:{number * 7919 % 10007}",
            random.integers(0, VOCABULARY, length),
            "words",
            length * 4,
            {"pmid": number},
            random.random(length) < 0.5 if masked else None,
        )
        for number, length in enumerate(lengths)
    ]


def write(folder: Path, documents: Sequence[EncodedDocument], packing: Packing) -> ShardCounts:
    folder.mkdir()
    with pytest.MonkeyPatch.context() as bounds:
        bounds.setattr(window_packer, "WINDOW_TOKENS", packing.window_tokens)
        bounds.setattr(shuffle, "SHUFFLED_TOKENS", packing.window_tokens)
        with ShardWriter(
            *(folder / name for name in FILES),
            packing.form,
            packing.window,
            min_tokens=packing.min_tokens,
            shuffle_documents=packing.shuffle_documents,
            seed=packing.seed,
        ) as writer:
            begin = turn = 0
            while begin < len(documents):
                size = packing.batches[turn % len(packing.batches)]
                writer.add_batch(EncodedBatch.of(documents[begin : begin + size]))
                begin, turn = begin + size, turn + 1
    return writer.counts


def read(folder: Path) -> tuple[list[Row], list[Row]]:
    """The rows of the shard, and of the list of documents; none where there are no files."""
    if not any(folder.iterdir()):
        return [], []
    first, second = (pq.read_table(folder / name).to_pylist() for name in FILES)
    return first, second


def spans(row: Row) -> list[tuple[str, int, list[int], list[bool] | None]]:
    """(id, offset, tokens, loss mask) of each piece in a row; checks what is left of the row."""
    found, column = [], 0
    for piece in row["documents"]:
        end = column + piece["length"]
        mask = row["loss_mask"][column:end] if "loss_mask" in row else None
        found.append((piece["id"], piece["offset"], row["tokens"][column:end], mask))
        column = end
    assert row["tokens"][column:] == [PAD] * (len(row["tokens"]) - column)
    assert not any(row["loss_mask"][column:] if "loss_mask" in row else [])
    return found


def check_against(
    document: EncodedDocument, offset: int, tokens: list[int], mask: list[bool] | None
) -> None:
    place = slice(offset, offset + len(tokens))
    assert tokens == document.tokens[place].tolist()
    if document.loss_mask is not None:
        assert mask == document.loss_mask[place].tolist()


def check_common(
    rows: list[Row],
    listed: list[Row],
    counts: ShardCounts,
    documents: Sequence[EncodedDocument],
    packing: Packing,
) -> None:
    """What every policy promises: right lists, right counts."""
    kept = [one for one in documents if len(one.tokens) >= packing.min_tokens]
    pieces = [[span[0] for span in spans(row)] for row in rows]
    assert [one["id"] for one in listed] == sorted(one.id for one in kept)
    by_id = {one.id: one for one in kept}
    for one in listed:
        document = by_id[one["id"]]
        assert one["tokens"] == len(document.tokens)
        assert one["bytes"] == document.bytes
        assert one["pmid"] == document.metadata["pmid"]
        assert one["rows"] == [row for row, ids in enumerate(pieces) if one["id"] in ids]
    filled = sum(piece["length"] for row in rows for piece in row["documents"])
    assert all(len(row["tokens"]) == packing.form.sequence_length for row in rows)
    assert (counts.documents, counts.rows, counts.tokens) == (len(kept), len(rows), filled)
    assert counts.padding == len(rows) * packing.form.sequence_length - filled
    assert counts.too_short == len(documents) - len(kept)
    assert counts.document_tokens == sum(len(one.tokens) for one in kept)
    assert counts.bytes == sum(one.bytes for one in kept)
    trained = sum(sum(row["loss_mask"]) for row in rows) if packing.form.has_loss_mask else filled
    assert counts.trained_tokens == trained


@settings(max_examples=120, deadline=None)
@given(LENGTHS, packings(["best_fit", "concat"]))
def test_every_token_stands_in_one_place_and_the_list_says_where(
    lengths: list[int], packing: Packing
) -> None:
    documents = corpus(lengths, packing.form.has_loss_mask)
    with tempfile.TemporaryDirectory() as folder:
        counts = write(Path(folder) / "set", documents, packing)
        rows, listed = read(Path(folder) / "set")
    check_common(rows, listed, counts, documents, packing)
    by_id = {one.id: one for one in documents}
    places: dict[str, list[int]] = {one["id"]: [] for one in listed}
    for row in rows:
        for name, offset, tokens, mask in spans(row):
            check_against(by_id[name], offset, tokens, mask)
            places[name] += range(offset, offset + len(tokens))
    for name, found in places.items():
        assert sorted(found) == list(range(len(by_id[name].tokens)))
    cut = [one for one in listed if len(one["rows"]) > 1]
    assert counts.cut_documents == len(cut)
    assert counts.cuts == sum(len(one["rows"]) - 1 for one in cut)
    if packing.form.policy == "best_fit":
        assert all(one["tokens"] > packing.form.sequence_length for one in cut)
    else:
        assert counts.padding < packing.form.sequence_length


@settings(max_examples=120, deadline=None)
@given(LENGTHS, packings(["per_document"]))
def test_every_epoch_has_one_window_of_every_document(lengths: list[int], packing: Packing) -> None:
    documents = corpus(lengths, packing.form.has_loss_mask)
    form = packing.form
    with tempfile.TemporaryDirectory() as folder:
        counts = write(Path(folder) / "set", documents, packing)
        rows, listed = read(Path(folder) / "set")
        shard = Path(folder) / "set" / FILES[0]
        metadata = pq.read_metadata(shard) if rows else None
        groups = [
            metadata.row_group(group).num_rows
            for group in range(metadata.num_row_groups if metadata else 0)
        ]
    check_common(rows, listed, counts, documents, packing)
    # Row group g is of epoch g mod E; the k-th of every epoch is full, the last ones equally long.
    assert groups == [
        min(form.row_group, counts.documents - begin)
        for begin in range(0, counts.documents, form.row_group)
        for _ in range(form.epochs)
    ]
    epoch_of = np.repeat(np.arange(len(groups)) % form.epochs, groups)
    by_id = {one.id: one for one in documents}
    seen: list[list[str]] = [[] for _ in range(form.epochs)]
    for row, epoch in zip(rows, epoch_of.tolist(), strict=True):
        ((name, offset, tokens, mask),) = spans(row)
        check_against(by_id[name], offset, tokens, mask)
        assert len(tokens) == min(len(by_id[name].tokens), form.sequence_length)
        seen[epoch].append(name)
    assert all(epoch == seen[0] for epoch in seen)
    assert sorted(seen[0]) == [one["id"] for one in listed]
    assert all(epoch_of[one["rows"]].tolist() == list(range(form.epochs)) for one in listed)
    assert counts.cut_documents == sum(one["tokens"] > form.sequence_length for one in listed)
    assert counts.cuts == counts.cut_documents * form.epochs


@settings(max_examples=80, deadline=None)
@given(
    LENGTHS,
    packings(["best_fit", "concat", "per_document"]),
    st.lists(st.integers(1, 30), min_size=1, max_size=3),
)
def test_the_bytes_do_not_depend_on_the_batches(
    lengths: list[int], packing: Packing, others: list[int]
) -> None:
    documents = corpus(lengths, packing.form.has_loss_mask)
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for name, batches in (("one", packing.batches), ("other", others)):
            changed = Packing(**vars(packing) | {"batches": batches})
            counts = write(Path(folder) / name, documents, changed)
            paths = sorted((Path(folder) / name).iterdir())
            found.append((counts, [(path.name, path.read_bytes()) for path in paths]))
    assert found[0] == found[1]
