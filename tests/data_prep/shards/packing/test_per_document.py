"""Windows of documents: where they begin, and that nothing but seed, epoch and id decides it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import xxhash

from data_prep.shards.packing.per_document import window_starts
from data_prep.shards.schema import ShardFormat
from data_prep.shards.writer import EncodedBatch, EncodedDocument, ShardWriter

Form = Callable[..., ShardFormat]
LENGTH = 32


def starts(ids: list[str], lengths: list[int], seed: int = 0, epoch: int = 0) -> list[int]:
    return window_starts(ids, np.array(lengths), LENGTH, seed, epoch).tolist()


def test_a_window_begins_where_the_hash_of_seed_epoch_and_id_says() -> None:
    for seed, epoch, length in [(0, 0, 33), (7, 3, 100), (123456789012, 11, 5_000_000)]:
        digest = xxhash.xxh3_64(f"{seed} {epoch} pmcid:PMC高".encode()).digest()
        share = int.from_bytes(digest, "big") / 2**64
        expected = [int(share * (length - LENGTH + 1))]
        assert starts(["pmcid:PMC高"], [length], seed, epoch) == expected


def test_documents_not_longer_than_a_sequence_stand_whole() -> None:
    assert starts(["a", "b", "c"], [1, LENGTH - 1, LENGTH]) == [0, 0, 0]


@pytest.mark.parametrize("changed", [{"seed": 1}, {"epoch": 1}])
def test_another_seed_or_epoch_takes_other_windows(changed: dict[str, int]) -> None:
    ids, lengths = [f"pmid:{number}" for number in range(100)], [100_000] * 100
    same = np.array(starts(ids, lengths)) == np.array(starts(ids, lengths, **changed))
    assert same.sum() <= 1  # by chance one in a thousand


def test_windows_begin_everywhere_equally_often() -> None:
    places = 5  # a window of 32 tokens in 36
    ids = [f"pmid:{number}" for number in range(10_000)]
    for epoch in range(3):
        found = np.bincount(starts(ids, [LENGTH + places - 1] * 10_000, epoch=epoch))
        # Binomial: 2,000 of each with a deviation of 40; five of them.
        assert len(found) == places
        assert np.abs(found - 2000).max() < 200


def windows(folder: Path, documents: list[EncodedDocument], form: ShardFormat, **changes: int):  # type: ignore[no-untyped-def]
    """(id, epoch): (offset, tokens), as plain pyarrow reads them."""
    folder.mkdir()
    with ShardWriter(folder / "a.parquet", folder / "b.parquet", form, 16, **changes) as writer:
        writer.add_batch(EncodedBatch.of(documents))
    file, found = pq.ParquetFile(folder / "a.parquet"), {}
    for group in range(file.num_row_groups):
        for row in file.read_row_group(group).to_pylist():
            ((piece),) = row["documents"]
            tokens = row["tokens"][: piece["length"]]
            found[piece["id"], group % form.epochs] = (piece["offset"], tokens)
    return found


def test_a_documents_windows_are_the_same_in_any_company(tmp_path: Path, form: Form) -> None:
    random = np.random.default_rng(0)
    documents = [
        EncodedDocument(f"pmid:{number}", random.integers(0, 300, 20 + number * 3), "words", 9)
        for number in range(50)
    ]
    wanted = form(policy="per_document", epochs=3, sequence_length=LENGTH)
    alone = windows(tmp_path / "few", documents[40:], wanted)
    among = windows(tmp_path / "all", documents[::-1], wanted, shuffle_documents=11)
    assert len(among) == 150
    assert len(alone) == 30
    assert alone == {key: among[key] for key in alone}
    assert len({alone["pmid:49", epoch][0] for epoch in range(3)}) > 1
