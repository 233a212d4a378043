"""Packing loses no token, doubles none, and fills rows as the plain algorithms do."""

from itertools import combinations

import numpy as np
import pytest

from data_prep.shards.packing.pieces import (
    Pieces,
    best_fit,
    concat,
    fill_rows,
    lay_out,
    without_emptiest_row,
)

POLICIES = {"best_fit": best_fit, "concat": concat}
CASES = [
    [],
    [1],
    [8],
    [9],
    [16],
    [8, 8, 8],
    [7, 1, 7, 1],
    [25, 3, 3, 3],
    [1] * 20,
    *[np.random.default_rng(seed).integers(1, 30, 60).tolist() for seed in range(20)],
]
LENGTH = 8


def rows_of(pieces: Pieces) -> list[list[tuple[int, int, int]]]:
    triples = list(
        zip(pieces.document.tolist(), pieces.offset.tolist(), pieces.length.tolist(), strict=True)
    )
    return [triples[pieces.starts[row] : pieces.starts[row + 1]] for row in range(pieces.rows)]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("lengths", CASES, ids=str)
def test_every_token_has_one_place(policy: str, lengths: list[int]) -> None:
    rows = rows_of(POLICIES[policy](np.array(lengths, np.int64), LENGTH))
    placed = [
        (document, token)
        for row in rows
        for document, offset, length in row
        for token in range(offset, offset + length)
    ]
    expected = [(document, token) for document, n in enumerate(lengths) for token in range(n)]
    assert sorted(placed) == expected
    assert all(0 < sum(length for *_, length in row) <= LENGTH for row in rows)
    assert all(length > 0 for row in rows for *_, length in row)


@pytest.mark.parametrize("lengths", CASES, ids=str)
def test_concat_is_the_stream_of_documents_cut_into_rows(lengths: list[int]) -> None:
    stream = [(document, token) for document, n in enumerate(lengths) for token in range(n)]
    expected = [stream[begin : begin + LENGTH] for begin in range(0, len(stream), LENGTH)]
    rows = rows_of(concat(np.array(lengths, np.int64), LENGTH))
    found = [[(d, t) for d, o, n in row for t in range(o, o + n)] for row in rows]
    assert found == expected


@pytest.mark.parametrize("lengths", CASES, ids=str)
def test_best_fit_cuts_only_what_is_longer_than_a_row(lengths: list[int]) -> None:
    rows = rows_of(best_fit(np.array(lengths, np.int64), LENGTH))
    pieces = [0] * len(lengths)
    for row in rows:
        for document, offset, length in row:
            pieces[document] += 1
            assert offset % LENGTH == 0
            assert length == min(LENGTH, lengths[document] - offset)
    assert pieces == [-(-length // LENGTH) for length in lengths]


def plain_best_fit_decreasing(sizes: list[int], capacity: int) -> int:
    """Rows that Ding et al. 2024 would take: every row is looked at for every item."""
    rows: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [index for index, free in enumerate(rows) if free >= size]
        if fitting:
            rows[min(fitting, key=lambda index: rows[index])] -= size
        else:
            rows.append(capacity - size)
    return len(rows)


def plain_fill(sizes: list[int], capacity: int) -> list[list[int]]:
    """The sizes in every row, as fill_rows's text says it: all items and all pairs are looked at."""
    left = sorted(sizes, reverse=True)
    rows = []
    while left:
        row: list[int] = []
        while True:
            free = capacity - sum(row)
            fitting = [size for size in left if size <= free]
            if not fitting:
                break
            pairs = [pair for pair in combinations(fitting, 2) if row and sum(pair) == free]
            if free in fitting:
                chosen: tuple[int, ...] = (free,)
            else:
                chosen = min(pairs, key=lambda pair: abs(pair[0] - pair[1]), default=fitting[:1])  # type: ignore[arg-type]
            for size in chosen:
                row.append(size)
                left.remove(size)
        rows.append(row)
    return rows


@pytest.mark.parametrize("seed", range(20))
def test_rows_fill_as_in_the_plain_search(seed: int) -> None:
    sizes = np.random.default_rng(seed).integers(1, 65, 60 + seed)
    row_of = fill_rows(sizes, 64)
    found = [sorted(sizes[row_of == row].tolist()) for row in range(row_of.max() + 1)]
    assert found == [sorted(row) for row in plain_fill(sizes.tolist(), 64)]


@pytest.mark.parametrize("smallest", [1, 5, 20, 40])
@pytest.mark.parametrize("seed", range(5))
def test_rows_are_no_more_than_of_best_fit_decreasing(seed: int, smallest: int) -> None:
    sizes = np.random.default_rng(seed).integers(smallest, 65, 300)
    row_of = fill_rows(sizes, 64)
    assert np.bincount(row_of, sizes).max() <= 64
    assert row_of.max() + 1 <= plain_best_fit_decreasing(sizes.tolist(), 64)


def test_of_items_of_one_size_the_earlier_stands_in_the_earlier_row() -> None:
    assert fill_rows(np.array([8, 3, 8, 3, 8]), 8).tolist() == [0, 3, 1, 3, 2]


@pytest.mark.parametrize("lengths", CASES, ids=str)
def test_rows_come_in_the_order_of_their_first_document(lengths: list[int]) -> None:
    rows = rows_of(best_fit(np.array(lengths, np.int64), LENGTH))
    assert all(row == sorted(row) for row in rows)
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)


def test_of_abstracts_less_than_one_place_in_1000_stays_empty() -> None:
    # Lengths like those of PubMed abstracts under GPT-2's tokenizer: median 191, none below 24 tokens.
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(5.25, 0.6, 4096), 24, 2000).astype(np.int64)
    pieces, held_back = without_emptiest_row(best_fit(lengths, 1024), 1024)
    assert 1 - pieces.length.sum() / (pieces.rows * 1024) < 0.001
    assert len(held_back) < 41  # 1 % of the window


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("lengths", [case for case in CASES if case], ids=str)
def test_the_row_held_back_is_the_emptiest(policy: str, lengths: list[int]) -> None:
    pieces = POLICIES[policy](np.array(lengths, np.int64), LENGTH)
    rows = rows_of(pieces)
    free = [LENGTH - sum(length for *_, length in row) for row in rows]
    kept, held = without_emptiest_row(pieces, LENGTH)
    if max(free) == 0:
        assert rows_of(kept) == rows
        assert held.tolist() == []
    else:
        emptiest = free.index(max(free))
        assert rows_of(kept) == rows[:emptiest] + rows[emptiest + 1 :]
        assert held.tolist() == sorted(document for document, *_ in rows[emptiest])
        # What is held back is each document's end, so that nothing behind it is written before.
        for document, offset, length in rows[emptiest]:
            assert offset + length == lengths[document]


@pytest.mark.parametrize("policy", POLICIES)
def test_values_are_laid_out_where_the_pieces_say(policy: str) -> None:
    lengths = np.array([5, 20, 3, 9, 1])
    values = np.arange(100, 100 + lengths.sum(), dtype=np.uint16)
    begins = np.cumsum(lengths) - lengths
    pieces = POLICIES[policy](lengths, LENGTH)
    matrix = lay_out(values, begins, pieces, LENGTH, 7)
    for row, parts in zip(matrix.tolist(), rows_of(pieces), strict=True):
        expected = [
            int(values[begins[document] + token])
            for document, offset, length in parts
            for token in range(offset, offset + length)
        ]
        assert row == expected + [7] * (LENGTH - len(expected))
