import pyarrow.parquet as pq
import pytest

from data_prep.curate.identity import IdentifyStage
from data_prep.curate.steps import decisions_name
from data_prep.run.executor import run_stage
from data_prep.units import finished
from tests.data_prep.curate.extracted import (
    Corpus,
    citation,
    decisions,
    deletion,
    document,
    retraction_of,
)

TITLE = "Outcomes of a treatment that nobody has tried\n\n" + "An abstract. " * 20


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


def test_every_document_has_a_row_and_deletions_have_none(corpus):
    corpus.extract("pubmed/a", [deletion(8), citation(1), deletion(9), citation(2)])
    assert decisions(corpus) == {"pubmed/a": ["keep", "keep"]}
    path = corpus.output / "identify" / "all" / decisions_name("pubmed/a")
    assert pq.read_table(path)["position"].to_pylist() == [0, 1]


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


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"licence": "cc-by-nc"}, "licence"),
        ({"language": "fre"}, "language"),
        ({"text": "short"}, "too_short"),
        ({"notice": True}, "notice"),
    ],
)
def test_a_full_text_that_the_filters_drop_takes_neither_its_abstract_nor_a_copy_along(
    tmp_path, fault, reason
):
    corpus = Corpus(tmp_path, licences=["commercial", "nlm-terms"])
    corpus.extract("pubmed/a", [citation(1), citation(2), citation(3)])
    corpus.extract("pmc/x", [document(pmid=1, **fault), document(pmid=2, **fault)])
    corpus.extract("pmc/y", [document(pmid=2), document(pmid=3, retracted=True, **fault)])
    assert decisions(corpus) == {
        "pubmed/a": ["keep", "has_full_text", "retracted"],
        "pmc/x": [reason, reason],
        "pmc/y": ["keep", "retracted"],
    }


def test_of_a_full_text_s_versions_the_highest_counts_whatever_the_filters_say(corpus):
    long = [document(pmcid="PMC77", version=version) for version in (1, 10, 2)]
    corpus.extract("pmc/x", [*long, document(pmcid="PMC78", version=2)])
    corpus.extract("pmc/y", [document(pmcid="PMC78", version=3, text="short"), document(pmid=9)])
    corpus.extract("pmc/z", [document(pmid=9, version=1), document(pmcid="PMC77", version=10)])
    assert decisions(corpus) == {
        "pmc/x": ["superseded", "keep", "superseded", "superseded"],
        "pmc/y": ["too_short", "keep"],
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


def test_of_one_pmid_several_times_in_a_file_the_last_stays_however_large_it_is(corpus):
    large = 2**31 + 5
    book = citation(large, kind="book")
    corpus.extract("pubmed/a", [citation(large), citation(7), book, citation(7, version=2)])
    corpus.extract("pubmed/b", [deletion(7)])
    assert decisions(corpus) == {
        "pubmed/a": ["superseded", "deleted", "keep", "keep"],
        "pubmed/b": [],
    }


def test_a_citation_set_of_deletions_alone_acts_on_the_files_before_it(corpus):
    corpus.extract("pubmed/a", [citation(1), citation(2)], (2026, 1))
    corpus.extract("pubmed/b", [deletion(1)], (2026, 2))
    corpus.extract("pubmed/c", [citation(1)], (2026, 3))
    assert decisions(corpus) == {
        "pubmed/a": ["deleted", "keep"],
        "pubmed/b": [],
        "pubmed/c": ["keep"],
    }


def test_a_withdrawn_full_text_is_gone_up_to_its_version_and_gives_its_citation_back(corpus):
    corpus.extract("pubmed/a", [citation(1, pmcid="PMC1"), citation(2)])
    texts = [document(pmcid="PMC1"), document(pmcid="PMC2", pmid=2), document(pmcid="PMC3")]
    corpus.extract("pmc/1", [*texts, document(pmcid="PMC2", version=2)], (2026, 1))
    gone = [deletion(pmcid="PMC1"), deletion(pmcid="PMC2"), deletion(pmcid="PMC3")]
    corpus.extract("pmc/2", gone, (2026, 2))
    corpus.extract("pmc/3", [document(pmcid="PMC3")], (2026, 3))  # and is there again
    assert decisions(corpus) == {
        "pubmed/a": ["keep", "keep"],
        "pmc/1": ["deleted", "deleted", "deleted", "keep"],
        "pmc/2": [],
        "pmc/3": ["keep"],
    }


def test_of_equal_versions_the_one_of_the_later_file_stays(corpus):
    corpus.extract("pmc/9", [document(pmcid="PMC1"), document(pmcid="PMC2", version=2)], (2026, 1))
    corpus.extract("pmc/1", [document(pmcid="PMC1"), document(pmcid="PMC2")], (2026, 2))
    assert decisions(corpus) == {
        "pmc/1": ["keep", "superseded"],
        "pmc/9": ["superseded", "keep"],
    }


def test_what_an_article_was_before_its_licence_or_retraction_changed_does_not_count(tmp_path):
    corpus = Corpus(tmp_path, licences=["commercial", "nlm-terms"])
    before = [document(pmcid="PMC1"), document(pmcid="PMC2", retracted=True)]
    corpus.extract("pmc/part-1", before, (0, 1))
    corpus.extract("pmc/part-2", [document(pmcid="PMC1", licence="cc-by-nc")], (0, 2))
    corpus.extract("pmc/part-3", [document(pmcid="PMC2")], (0, 3))
    assert decisions(corpus) == {
        "pmc/part-1": ["superseded", "superseded"],
        "pmc/part-2": ["licence"],
        "pmc/part-3": ["keep"],
    }


def test_pmc_is_preferred_to_s2orc_and_any_body_to_none(corpus):
    corpus.extract(
        "papers/a",
        [
            document(pmid=1, version=9),
            document(pmid=2),
            document(doi="10.1000/3"),
            document(pmid=4),
        ],
    )
    corpus.extract("pmc/x", [document(pmid=1), document(pmid=2, kind="citation")])
    corpus.extract("books/b", [document(doi="10.1000/3")])
    assert decisions(corpus) == {
        "papers/a": ["duplicate_id", "keep", "keep", "keep"],
        "pmc/x": ["keep", "duplicate_id"],
        "books/b": ["duplicate_id"],
    }


def test_a_notice_retracts_articles_that_do_not_say_so_themselves(corpus):
    corpus.extract(
        "pubmed/a", [citation(1), citation(2, doi="10.1000/b"), citation(3), citation(4)], (26, 1)
    )
    notices = [citation(10, **retraction_of(1, 2)), citation(11, **retraction_of(3))]
    corpus.extract("pubmed/b", [*notices, deletion(11)], (26, 2))
    corpus.extract("pmc/x", [document(doi="10.1000/B"), document(**retraction_of(4, None))])
    assert decisions(corpus) == {
        "pubmed/a": ["retracted", "retracted", "keep", "retracted"],
        "pubmed/b": ["notice", "deleted"],
        "pmc/x": ["retracted", "notice"],
    }


def test_only_a_notice_s_link_retracts(corpus):
    links = [{"type": "RetractionOf", "pmid": 1}, {"type": "ErratumFor", "pmid": 2}]
    corpus.extract("pubmed/a", [citation(1), citation(2), citation(3, links=links)])
    corpus.extract("pubmed/b", [citation(4, notice=True, links=links[1:])])
    assert decisions(corpus) == {"pubmed/a": ["keep"] * 3, "pubmed/b": ["notice"]}


def test_notices_are_kept_when_the_config_says_so(tmp_path):
    corpus = Corpus(tmp_path, drop_notices=False)
    corpus.extract("pubmed/a", [citation(1), citation(2, **retraction_of(1))])
    assert decisions(corpus) == {"pubmed/a": ["retracted", "keep"]}


def test_a_citation_gives_way_to_the_one_full_text_of_its_title(corpus):
    said = {
        "year": 2020,
        "text": TITLE.replace("Outcomes of", "OUTCOMES - of").replace("d\n", "d.\n"),
    }
    corpus.extract("pmc/x", [document(text=TITLE, doi="10.1000/x", year=2021)])
    corpus.extract(
        "pubmed/a",
        [
            citation(1, **said),
            citation(2, **said | {"doi": "10.1000/y"}),
            citation(3, **said | {"year": 2019}),
            citation(4, **said | {"year": None}),
            citation(5, **said | {"text": "Editorial\n\n" + "Words. " * 30}),
        ],
    )
    assert decisions(corpus) == {"pmc/x": ["keep"], "pubmed/a": ["same_title"] + ["keep"] * 4}


def test_a_title_is_no_proof_when_several_full_texts_have_it(corpus):
    corpus.extract("pmc/x", [document(text=TITLE, id=f"text:{n}") for n in range(2)])
    corpus.extract("pubmed/a", [citation(1, text=TITLE)])
    assert decisions(corpus)["pubmed/a"] == ["keep"]


def test_a_full_text_whose_citation_is_known_has_no_other_by_its_title(corpus):
    corpus.extract("pmc/x", [document(text=TITLE, doi="10.1000/x")])
    corpus.extract("pubmed/a", [citation(1, doi="10.1000/X"), citation(2, text=TITLE)])
    assert decisions(corpus)["pubmed/a"] == ["has_full_text", "keep"]


def test_a_retraction_is_shared_by_title_too(corpus):
    corpus.extract("pmc/x", [document(text=TITLE, id="text:x")])
    corpus.extract("pubmed/a", [citation(1, text=TITLE, retracted=True)])
    assert decisions(corpus) == {"pmc/x": ["retracted"], "pubmed/a": ["retracted"]}


def test_titles_are_not_compared_when_the_config_says_so(tmp_path):
    corpus = Corpus(tmp_path, same_title=False)
    corpus.extract("pmc/x", [document(text=TITLE, id="text:x")])
    corpus.extract("pubmed/a", [citation(1, text=TITLE)])
    assert decisions(corpus)["pubmed/a"] == ["keep"]


def test_counts_are_by_source_and_reason(corpus):
    corpus.extract("pubmed/a", [citation(1), citation(2, text="A title"), deletion(3)])
    corpus.extract("pubmed/b", [citation(4, licence="cc0")])
    corpus.extract("pmc/x", [document(pmid=1)])
    assert not run_stage(IdentifyStage(corpus.config)).failed
    (result,) = finished(corpus.output / "identify")
    counted = {
        source: {reason: number for reason, number in reasons.items() if number}
        for source, reasons in result.counts.items()
    }
    assert counted == {
        "pubmed": {"keep": 1, "has_full_text": 1, "no_abstract": 1},
        "pmc": {"keep": 1},
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
