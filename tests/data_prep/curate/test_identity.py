import pyarrow.parquet as pq
import pytest

from data_prep.curate.identity import IdentifyStage, decisions_file
from data_prep.executor import run_stage
from tests.data_prep.curate.extracted import Corpus, citation, deletion, document


def decisions(corpus):
    """Reasons by unit, after the stage has run."""
    stage = IdentifyStage(corpus.config)
    assert not run_stage(stage).failed
    names = stage.units()[0].inputs
    read = {n: pq.read_table(stage.directory / "all" / decisions_file(n)) for n in names}
    return {name: table["reason"].to_pylist() for name, table in read.items()}


def test_the_newest_revision_of_a_citation_is_kept_and_a_deleted_one_dropped(corpus):
    corpus.extract("pubmed/pubmed26n0002", [citation(1), citation(2), citation(3)], (2026, 2))
    # Unit names sort otherwise than the files' numbers: the numbers decide.
    corpus.extract("pubmed/pubmed26n0010", [citation(1), deletion(2), citation(4)], (2026, 10))
    corpus.extract("pubmed/a27n0001", [citation(4)], (2027, 1))
    assert decisions(corpus) == {
        "pubmed/pubmed26n0002": ["superseded", "deleted", "keep"],
        "pubmed/pubmed26n0010": ["keep", "superseded"],
        "pubmed/a27n0001": ["keep"],
    }


def test_positions_are_those_of_the_documents_in_their_file(corpus):
    corpus.extract("pubmed/a", [deletion(8), citation(1), deletion(9), citation(2)])
    decisions(corpus)
    path = corpus.output / "identify" / "all" / decisions_file("pubmed/a")
    assert pq.read_table(path)["position"].to_pylist() == [1, 3]


def test_a_retraction_marked_on_either_side_drops_abstract_and_full_text(corpus):
    corpus.extract(
        "pubmed/a",
        [
            citation(1, retracted=True),
            citation(2, doi="10.1000/b"),
            citation(3, pmcid="PMC3", retracted=True),
            citation(4, retracted=True),
        ],
    )
    corpus.extract(
        "pmc/x",
        [
            document(pmid=1),
            document(doi="https://doi.org/10.1000/B", retracted=True),
            document(pmcid="pmc 3.2"),
        ],
    )
    assert decisions(corpus) == {"pubmed/a": ["retracted"] * 4, "pmc/x": ["retracted"] * 3}


def test_retracted_articles_stay_when_the_config_says_so(tmp_path):
    corpus = Corpus(tmp_path, drop_retracted=False)
    corpus.extract("pubmed/a", [citation(1, retracted=True), citation(2, retracted=True)])
    corpus.extract("pmc/x", [document(pmid=1)])
    assert decisions(corpus) == {"pubmed/a": ["has_full_text", "keep"], "pmc/x": ["keep"]}


def test_only_the_standing_revision_s_retraction_mark_counts(corpus):
    corpus.extract("pubmed/a", [citation(1, retracted=True), citation(2)], (26, 1))
    corpus.extract("pubmed/b", [citation(1), citation(2, retracted=True)], (26, 2))
    corpus.extract("pmc/x", [document(pmid=1), document(pmid=2)])
    assert decisions(corpus) == {
        "pubmed/a": ["superseded", "superseded"],
        "pubmed/b": ["has_full_text", "retracted"],
        "pmc/x": ["keep", "retracted"],
    }


def test_a_citation_gives_way_to_its_full_text_by_any_key(corpus):
    corpus.extract(
        "pubmed/a",
        [
            citation(1),
            citation(2, pmcid="PMC2"),
            citation(3, doi="10.1000/C"),
            citation(4, doi="10.1000/d", pmcid="PMC4"),
        ],
    )
    corpus.extract(
        "pmc/x", [document(pmid=1), document(pmcid="PMC2.1"), document(doi=" doi:10.1000/c")]
    )
    assert decisions(corpus)["pubmed/a"] == ["has_full_text"] * 3 + ["keep"]


@pytest.mark.parametrize("fault", [{"licence": "cc-by-nc"}, {"language": "fre"}, {"text": "short"}])
def test_a_full_text_that_the_filters_drop_takes_neither_its_abstract_nor_a_copy_along(
    tmp_path, fault
):
    corpus = Corpus(tmp_path, licences=["commercial", "nlm-terms"])
    corpus.extract("pubmed/a", [citation(1), citation(2), citation(3)])
    corpus.extract("pmc/x", [document(pmid=1, **fault), document(pmid=2, **fault)])
    corpus.extract("pmc/y", [document(pmid=2), document(pmid=3, retracted=True, **fault)])
    assert decisions(corpus) == {
        "pubmed/a": ["keep", "has_full_text", "retracted"],
        "pmc/x": ["keep", "keep"],  # and dropped by the filters
        "pmc/y": ["keep", "retracted"],
    }


def test_of_several_versions_of_a_full_text_the_highest_that_stays_is_kept(corpus):
    long = [document(pmcid="PMC77", version=version) for version in (1, 10, 2)]
    corpus.extract("pmc/x", [*long, document(pmcid="PMC78", version=2)])
    corpus.extract("pmc/y", [document(pmcid="PMC78", version=3, text="short"), document(pmid=9)])
    corpus.extract("pmc/z", [document(pmid=9, version=1), document(pmcid="PMC77", version=10)])
    assert decisions(corpus) == {
        "pmc/x": ["duplicate_id", "keep", "duplicate_id", "keep"],
        "pmc/y": ["keep", "keep"],  # the first of them to be dropped by the filters
        "pmc/z": ["duplicate_id", "duplicate_id"],
    }


def test_of_two_full_texts_of_one_version_the_first_by_unit_name_and_place_stays(corpus):
    corpus.extract("pmc/y", [document(pmcid="PMC5"), document(pmcid="5"), document(pmcid="PMC6")])
    corpus.extract("pmc/x", [document(pmid=7, pmcid="PMC6.1")])
    corpus.extract("books/b", [document(doi="10.1000/q"), document(doi="10.1000/Q")])
    assert decisions(corpus) == {
        "books/b": ["keep", "duplicate_id"],
        "pmc/x": ["keep"],
        "pmc/y": ["keep", "duplicate_id", "duplicate_id"],
    }


def test_keys_join_articles_through_a_chain(corpus):
    corpus.extract("pubmed/a", [citation(1, pmcid="PMC1")])
    corpus.extract("pmc/x", [document(pmid=1), document(pmcid="PMC1"), document(pmcid="PMC9")])
    assert decisions(corpus)["pmc/x"] == ["keep", "duplicate_id", "keep"]


def test_placeholders_are_no_keys(corpus):
    dois = ("n/a", "n/a", "10.1371/", "10.1371/")
    corpus.extract("books/b", [document(doi=doi, id=f"text:{n}") for n, doi in enumerate(dois)])
    corpus.extract("pmc/x", [document(pmcid="unknown", id=f"text:x#{n}") for n in range(3)])
    assert {reason for unit in decisions(corpus).values() for reason in unit} == {"keep"}


def test_an_id_that_comes_twice_in_a_source_is_kept_once(corpus):
    corpus.extract("books/a", [document(id="text:a#1"), document(id="text:a#2")])
    corpus.extract("books/b", [document(id="text:a#3"), document(id="text:a#1")])
    corpus.extract("pmc/x", [document(id="text:a#2")])  # another source's file of that name
    assert decisions(corpus) == {
        "books/a": ["keep", "keep"],
        "books/b": ["keep", "duplicate_id"],
        "pmc/x": ["keep"],
    }


def test_the_same_decisions_are_the_same_bytes_and_are_not_made_twice(corpus, tmp_path):
    again = Corpus(tmp_path / "again")
    for where in (corpus, again):
        where.extract("pubmed/a", [citation(1), citation(2, doi="10.1000/x")], (26, 1))
        where.extract("pmc/x", [document(doi="10.1000/X")])
        assert run_stage(IdentifyStage(where.config)).ran == ["all"]
    assert run_stage(IdentifyStage(corpus.config)).done == ["all"]
    records = [where.output / "identify" / "all" / "unit.json" for where in (corpus, again)]
    assert records[0].read_bytes() == records[1].read_bytes()


def test_sources_without_documents_or_units_are_no_error(corpus):
    assert run_stage(IdentifyStage(corpus.config)).ran == []
    corpus.extract("pubmed/a", [])
    corpus.extract("pmc/x", [])
    assert decisions(corpus) == {"pubmed/a": [], "pmc/x": []}
