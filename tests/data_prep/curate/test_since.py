import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.curate.identity import IdentifyStage
from data_prep.curate.near_duplicates import NearDuplicatesStage
from data_prep.curate.signatures import SignaturesStage
from data_prep.curate.stage import CurateStage
from data_prep.curate.steps import decisions_name
from data_prep.errors import ConfigError
from data_prep.run.executor import run_stage
from data_prep.units import finished
from tests.data_prep.curate.extracted import Corpus, citation, deletion, document

OLD = "A title\n\n" + "What was said first. " * 10
NEW = "A title\n\n" + "What is said now. " * 10


def curate(corpus):
    for stage in (IdentifyStage(corpus.config), CurateStage(corpus.config)):
        assert not run_stage(stage).failed
    return corpus


def decisions(corpus):
    stage = IdentifyStage(corpus.config)
    assert not run_stage(stage).failed
    folder = stage.directory / "all"
    names = stage.units()[0].payload["indexes"]
    return {n: pq.read_table(folder / decisions_name(n))["reason"].to_pylist() for n in names}


def withdrawn(corpus):
    """What the stage lists as withdrawn, and what it counts."""
    (result,) = finished(corpus.output / "identify")
    rows = pq.read_table(result.folder / "withdrawn.parquet").to_pylist()
    return {row["id"]: row["reason"] for row in rows}, result.counts["withdrawn_since"]


@pytest.fixture
def earlier(tmp_path):
    corpus = Corpus(tmp_path / "earlier")
    corpus.extract("pubmed/a", [citation(pmid, text=OLD) for pmid in range(1, 7)], (26, 1))
    corpus.extract("pmc/x", [document(pmcid="PMC50", text=OLD), document(pmcid="PMC51", text=OLD)])
    return curate(corpus)


def test_only_what_is_new_or_changed_stays(earlier, tmp_path):
    corpus = Corpus(tmp_path / "now", since=earlier.output)
    corpus.extract("pubmed/a", [citation(pmid, text=OLD) for pmid in range(1, 7)], (26, 1))
    later = [citation(2, text=NEW), citation(3, text=OLD), citation(7, text=OLD)]
    corpus.extract("pubmed/b", later, (26, 2))
    corpus.extract("pmc/x", [document(pmid=4, id="pmcid:PMC4"), document(pmcid="PMC51", text=NEW)])
    assert decisions(corpus) == {
        "pubmed/a": ["seen_before", "superseded", "superseded", "has_full_text"]
        + ["seen_before"] * 2,
        "pubmed/b": ["keep", "seen_before", "keep"],
        "pmc/x": ["keep", "keep"],
    }


def test_a_near_duplicate_of_what_was_kept_is_not_news(tmp_path):
    copies = [citation(1, text=OLD + "Once more."), citation(2, text=OLD)]
    earlier = Corpus(tmp_path / "earlier", near_duplicates={})
    earlier.extract("pubmed/a", copies)
    steps = (IdentifyStage, SignaturesStage, NearDuplicatesStage, CurateStage)
    for stage in steps:
        assert not run_stage(stage(earlier.config)).failed
    assert finished(earlier.output / "curate")[0].counts["dropped"] == {"near_duplicate": 1}
    corpus = Corpus(tmp_path / "now", since=earlier.output, near_duplicates={})
    corpus.extract("pubmed/a", copies)
    assert decisions(corpus) == {"pubmed/a": ["seen_before"] * 2}


def test_what_was_withdrawn_since_is_listed_with_its_reason(earlier, tmp_path):
    corpus = Corpus(tmp_path / "now", since=earlier.output)
    corpus.extract("pubmed/a", [citation(pmid, text=OLD) for pmid in range(1, 5)], (26, 1))
    changes = [deletion(1), citation(2, text=OLD, retracted=True), deletion(3), deletion(6)]
    corpus.extract("pubmed/b", [*changes, deletion(99)], (26, 2))
    corpus.extract("pubmed/c", [citation(3, text=NEW)], (26, 3))  # deleted, and there again
    corpus.extract("pmc/x", [document(pmcid="PMC51", text=OLD), deletion(pmcid="PMC51")])
    decisions(corpus)
    assert withdrawn(corpus) == (
        {"pmid:1": "deleted", "pmid:2": "retracted", "pmid:6": "deleted", "pmcid:PMC51": "deleted"},
        {"deleted": 3, "retracted": 1, "absent": 2},  # of PMID 5 and PMC50 nothing is known
    )


def test_a_chain_of_corpora_needs_only_its_last_one(earlier, tmp_path):
    second = Corpus(tmp_path / "second", since=earlier.output)
    second.extract("pubmed/a", [citation(1, text=OLD), citation(2, text=NEW)])
    curate(second)
    third = Corpus(tmp_path / "third", since=second.output)
    texts = {1: OLD, 2: NEW, 3: OLD, 4: NEW}
    third.extract("pubmed/a", [citation(pmid, text=text) for pmid, text in texts.items()])
    assert decisions(third) == {"pubmed/a": ["seen_before"] * 3 + ["keep"]}


def test_the_stage_runs_again_when_the_earlier_corpus_changes_and_not_when_it_moves(
    earlier, tmp_path
):
    def again(folder):
        corpus = Corpus(tmp_path / "now", since=folder)
        corpus.extract("pubmed/a", [citation(1, text=OLD)])
        return run_stage(IdentifyStage(corpus.config)).ran

    assert again(earlier.output) == ["all"]
    moved = earlier.output.rename(tmp_path / "moved")
    assert again(moved) == []
    kept = Corpus(moved)
    kept.extract("pubmed/a", [citation(1, text=NEW)])
    curate(kept)
    assert again(moved) == ["all"]


def test_a_folder_that_is_no_earlier_corpus_is_refused(earlier, tmp_path):
    def fault(folder, output="now"):
        corpus = Corpus(tmp_path / output, since=folder)
        corpus.extract("pubmed/a", [citation(1)])
        with pytest.raises(ConfigError) as raised:
            IdentifyStage(corpus.config).units()
        return str(raised.value)

    assert "curate.since" in fault(tmp_path / "nowhere")
    assert "no such folder" in fault(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no curated units" in fault(tmp_path / "empty")
    assert "output of this corpus" in fault(earlier.output, "earlier")
    (earlier.output / "curate/pubmed/a/kept.parquet").unlink()
    assert "kept.parquet: missing; run the stage curate there again" in fault(earlier.output)


@pytest.mark.parametrize("whole", [True, False])
def test_a_list_that_is_none_is_named(earlier, tmp_path, whole):
    path = earlier.output / "curate/pubmed/a/kept.parquet"
    pq.write_table(pa.table({"id_hash": pa.array([1], pa.int64())}), path)
    path.write_bytes(path.read_bytes()[: None if whole else 50])
    corpus = Corpus(tmp_path / "now", since=earlier.output)
    corpus.extract("pubmed/a", [citation(1)])
    reason = run_stage(IdentifyStage(corpus.config)).failed["all"]
    assert "kept.parquet: not a list of what a corpus kept" in reason
    assert "\n" not in reason
