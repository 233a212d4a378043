import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.config import Quality
from data_prep.curate.articles import article_keys
from data_prep.curate.identity import IdentifyStage
from data_prep.curate.quality import histogram, is_drawn, quality_settings, weights
from data_prep.curate.steps import decisions_name
from data_prep.run.executor import run_stage
from data_prep.units import finished
from tests.data_prep.curate.extracted import Corpus, citation, document

GIVEN = {
    "publication_types": {"Review": 0.8, "Case Reports": 0.4, "case-report": 0.5, "Letter": 0},
    "journals": {"The Lancet": 0.9, "Annals of Nothing": 0.1},
    "half_life_years": 10,
    "reference_year": 2020,
}


def keys(**columns):
    rows = len(next(iter(columns.values())))
    kinds = {"pmid": pa.int64(), "pmcid": pa.string(), "doi": pa.string(), "id": pa.string()}
    known = {"id": [f"text:{n}" for n in range(rows)]} | columns
    table = {name: pa.array(known.get(name, [None] * rows), kind) for name, kind in kinds.items()}
    return article_keys(pa.table(table), "pmc")


def test_weights_equal_the_products_worked_out_one_by_one():
    rng = np.random.default_rng(3)
    types = [*GIVEN["publication_types"], "Journal Article", "REVIEW"]
    journals = [*GIVEN["journals"], "the lancet", "Another", None]
    rows = [
        (
            list(rng.choice(types, rng.integers(0, 4), replace=False)),
            journals[rng.integers(len(journals))],
            [None, 1950, 2010, 2020, 2025][rng.integers(5)],
        )
        for _ in range(300)
    ]

    def lowered(names):
        return {name.lower(): weight for name, weight in names.items()}

    expected = []
    for kinds, journal, year in rows:
        named = lowered(GIVEN["publication_types"])
        weight = min((named.get(kind.lower(), 1.0) for kind in kinds), default=1.0)
        weight *= lowered(GIVEN["journals"]).get((journal or "").lower(), 1.0)
        weight *= 0.5 ** (max(2020 - (year or 2020), 0) / 10)
        expected.append(weight)
    table = pa.table(
        {
            "publication_types": pa.array([row[0] for row in rows], pa.list_(pa.string())),
            "journal": pa.array([row[1] for row in rows], pa.string()),
            "year": pa.array([row[2] for row in rows], pa.int32()),
        }
    )
    found = weights(table, quality_settings(Quality(**GIVEN)))
    assert found == pytest.approx(expected, rel=1e-6)
    # Pieces of a column, one of them empty, are read like the whole.
    pieces = pa.concat_tables([table.slice(0, 7), table.slice(7, 0), table.slice(7)])
    assert weights(pieces, quality_settings(Quality(**GIVEN))).tolist() == found.tolist()


def test_nothing_named_weighs_nothing_down():
    table = pa.table(
        {
            "publication_types": pa.array([["Review"], None, []], pa.list_(pa.string())),
            "journal": pa.array(["A", None, "B"], pa.string()),
            "year": pa.array([1900, None, 2020], pa.int32()),
        }
    )
    assert weights(table, quality_settings(Quality())).tolist() == [1, 1, 1]


def test_age_needs_the_year_in_which_it_is_nothing():
    for given in ({"half_life_years": 5}, {"reference_year": 2020}):
        with pytest.raises(ValueError, match="go together"):
            Quality(**given)


def test_about_the_share_of_the_weight_stays_and_more_of_a_higher_one():
    drawn = keys(pmid=list(range(1, 40_001)))
    kept = {w: is_drawn(drawn, np.full(len(drawn), w, np.float32)) for w in (0, 0.2, 0.5, 1)}
    assert not kept[0].any()
    assert kept[1].all()
    # Five standard deviations of a binomial count: sqrt(40,000 * 0.2 * 0.8) = 80, and 100 of 0.5.
    assert abs(kept[0.2].sum() - 8_000) < 5 * 80
    assert abs(kept[0.5].sum() - 20_000) < 5 * 100
    assert not (kept[0.2] & ~kept[0.5]).any()


def test_an_article_s_own_key_draws_and_no_other_row():
    half = np.full(200, 0.5, np.float32)
    pmids = list(range(1, 201))
    alone = is_drawn(keys(pmid=pmids), half)
    with_more = keys(pmid=pmids, doi=[f"10.1000/{n}" for n in pmids], pmcid=["PMC1"] * 200)
    assert is_drawn(with_more, half).tolist() == alone.tolist()
    assert is_drawn(keys(pmid=pmids[::-1]), half)[::-1].tolist() == alone.tolist()
    for other in (
        keys(pmcid=[f"PMC{n}" for n in pmids]),
        keys(doi=[f"10.1000/{n}" for n in pmids]),
        keys(id=[f"text:{n}" for n in pmids]),
    ):
        assert 50 < (is_drawn(other, half) == alone).sum() < 150  # independent: 100 and some


def test_the_histogram_counts_tenths():
    weight = np.array([0, 0.05, 0.1, 0.3, 0.7, 0.79, 0.999, 1, 1], np.float32)
    assert histogram(weight) == {"0.0": 2, "0.1": 1, "0.3": 1, "0.7": 2, "0.9": 1, "1.0": 2}


def test_documents_stay_by_their_weight_and_an_article_by_the_lowest_of_its_records(tmp_path):
    quality = {"publication_types": {"Letter": 0, "Review": 0.5}}
    corpus = Corpus(tmp_path, quality=quality)
    letter = {"publication_types": ["Letter"]}
    corpus.extract("pubmed/a", [citation(1, **letter), citation(2), citation(3, **letter)])
    corpus.extract("pmc/x", [document(pmid=3), document(pmid=4, licence="custom", **letter)])
    reviews = [citation(n, publication_types=["Review"]) for n in range(100, 300)]
    corpus.extract("pubmed/b", reviews)
    stage = IdentifyStage(corpus.config)
    assert not run_stage(stage).failed
    found = {
        unit: pq.read_table(stage.directory / "all" / decisions_name(unit))["reason"].to_pylist()
        for unit in ("pubmed/a", "pmc/x", "pubmed/b")
    }
    assert found["pubmed/a"] == ["quality", "keep", "has_full_text"]
    assert found["pmc/x"] == ["quality", "quality"]
    assert 60 < found["pubmed/b"].count("quality") < 140
    (result,) = finished(stage.directory)
    assert result.counts["weights"] == {"0.0": 3, "0.5": 200, "1.0": 1}
