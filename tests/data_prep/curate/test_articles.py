import numpy as np
import pyarrow as pa
import pytest

from data_prep.curate.articles import ArticleKeys, doi_hashes, pmcid_numbers, same_article


def test_pmcids_are_numbers_without_prefix_spaces_or_version():
    written = ["PMC12", "pmc12", " PMC 12 ", "PMC12.3", "12", "PMC", "MID12", "", None]
    assert pmcid_numbers(pa.chunked_array([written])).tolist() == [12] * 5 + [0] * 4


def test_dois_are_equal_however_they_are_written_and_placeholders_are_none():
    same = ["10.1000/A(b)", "https://doi.org/10.1000/a(b)", "http://dx.doi.org/10.1000/A(B)"]
    same += ["doi: 10.1000/a(b)", " 10.1000/a(B) "]
    hashes = doi_hashes(
        pa.chunked_array([[*same, "10.1000/other", "10.1000.10/123", "n/a", "10.1000/", None]])
    )
    assert len(set(hashes[:5])) == 1
    assert len({0, *hashes[4:7]}) == 4
    assert hashes[7:].tolist() == [0, 0, 0]


@pytest.mark.parametrize("seed", range(30))
def test_articles_equal_the_connected_components_of_a_graph_search(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 80))
    columns = [rng.integers(0, 60, n) * (rng.random(n) < 0.5) for _ in range(3)]

    expected = [-1] * n
    for start in range(n):
        if expected[start] >= 0:
            continue
        stack = [start]
        while stack:
            row = stack.pop()
            if expected[row] < 0:
                expected[row] = start
                stack += [
                    other
                    for other in range(n)
                    if any(column[row] and column[row] == column[other] for column in columns)
                ]
    assert same_article(ArticleKeys(*columns)).tolist() == expected
