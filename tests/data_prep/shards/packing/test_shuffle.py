"""Documents shuffle into each other in a bounded buffer, the same way each time."""

import numpy as np
import pytest

from data_prep.shards.encoded import EncodedBatch
from data_prep.shards.packing import shuffle
from data_prep.shards.packing.shuffle import DocumentShuffle
from tests.data_prep.shards.encoded import encoded_documents


def shuffled(
    documents: int, buffer: int, seed: int = 0, together: int = 7, longest: int = 5
) -> list[str]:
    """Ids in the order in which they are given; checks that their tokens go with them."""
    corpus = encoded_documents(documents, longest=longest)
    tokens = {one.id: one.tokens.tolist() for one in corpus}
    shuffling = DocumentShuffle(buffer, seed)
    given = []
    for begin in range(0, documents, together):
        given += list(shuffling.add(EncodedBatch.of(corpus[begin : begin + together])))
    order = []
    for batch in [*given, shuffling.finish()]:
        for place, name in enumerate(batch.about["id"].to_pylist()):
            order.append(name)
            assert batch.tokens[slice(*batch.starts[place : place + 2])].tolist() == tokens[name]
    return order


def places(order: list[str]) -> np.ndarray:
    """Where each document, in the order in which they came, is given."""
    given = {name: place for place, name in enumerate(order)}
    return np.array([given[one.id] for one in encoded_documents(len(order))])


@pytest.mark.parametrize("buffer", [1, 2, 10, 500, 10_000])
def test_every_document_is_given_once(buffer: int) -> None:
    order = shuffled(1000, buffer)
    assert sorted(order) == sorted(one.id for one in encoded_documents(1000))


def test_a_buffer_of_all_documents_gives_any_order() -> None:
    places_of = [places(shuffled(200, 200, seed)) for seed in range(200)]
    # Means of 200 uniform places of 0 to 199 (deviation 57.7): five of their deviations around 99.5.
    assert np.abs(np.mean(places_of, 0) - 99.5).max() < 5 * 57.7 / 200**0.5


def test_neighbours_are_given_far_apart() -> None:
    buffer = 500
    order = places(shuffled(10_000, buffer))
    # A document is given at any place of its half buffer's (spread: a quarter of the buffer's documents),
    # one half buffer later with probability 1/2, and so on: by chance few neighbours stay near.
    apart = np.abs(np.diff(order))
    assert np.median(apart) > buffer / 4
    assert (apart == 1).mean() < 5 / buffer
    # Nothing is given before it came: when place k is filled, k + buffer documents have come.
    assert (order - np.arange(10_000)).min() >= -buffer


def test_the_order_is_the_seeds_and_nothing_elses() -> None:
    assert shuffled(500, 64) == shuffled(500, 64, together=500) == shuffled(500, 64, together=1)
    assert shuffled(500, 64) != shuffled(500, 64, seed=1)


def test_no_more_tokens_wait_than_the_bound_and_one_document(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shuffle, "SHUFFLED_TOKENS", 300)
    shuffling = DocumentShuffle(10_000, 0)
    came = went = 0
    for document in encoded_documents(400, longest=100):
        came += len(document.tokens)
        went += sum(len(part.tokens) for part in shuffling.add(EncodedBatch.of([document])))
        assert came - went <= 300 + 100
    assert came - went == len(shuffling.finish().tokens)
