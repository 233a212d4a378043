import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
import xxhash
import zstandard

from data_prep.curate.decisions import write_decisions
from data_prep.curate.filters import split_of
from data_prep.curate.identity import IdentifyStage
from data_prep.curate.stage import CurateStage
from data_prep.documents import read_documents
from data_prep.errors import DataError
from data_prep.run.executor import run_stage
from data_prep.units import Stage, Unit, finished
from tests.data_prep.curate.extracted import Corpus, citation, deletion, document


def curate(corpus):
    assert not run_stage(IdentifyStage(corpus.config)).failed
    report = run_stage(CurateStage(corpus.config))
    assert not report.failed
    return report


def lines(corpus, unit, name):
    return list(read_documents(corpus.output / "curate" / unit / f"{name}.jsonl.zst"))


def test_every_document_is_in_exactly_one_of_the_three_files(corpus):
    events = [citation(pmid, text=f"T{pmid}\n\n" + "a" * 100) for pmid in range(1, 41)]
    events += [
        deletion(3),
        citation(50, text="Title alone, and nothing else"),
        citation(51, text=""),
    ]
    corpus.extract("pubmed/a", events)
    curate(corpus)
    train, validation = (lines(corpus, "pubmed/a", split) for split in ("train", "validation"))
    kept = [pmid for pmid in range(1, 41) if pmid != 3]
    assert sorted(d["metadata"]["pmid"] for d in train + validation) == kept
    assert {d["id"]: "train" for d in train} | {d["id"]: "validation" for d in validation} == {
        f"pmid:{pmid}": split_of(f"pmid:{pmid}", 0.5) for pmid in kept
    }
    assert lines(corpus, "pubmed/a", "dropped") == [
        {"id": "pmid:3", "reason": "deleted", "title": "T3"},
        {"id": "pmid:50", "reason": "no_abstract", "title": "Title alone, and nothing else"},
        {"id": "pmid:51", "reason": "no_abstract", "title": ""},
    ]
    assert train[0]["text"].startswith("T")
    assert train[0]["source"] == "pubmed"


def test_an_abstract_and_its_full_text_fall_on_the_same_side(corpus, tmp_path):
    abstracts = Corpus(tmp_path / "abstracts", validation_fraction=0.5)
    abstracts.extract("pubmed/a", [citation(pmid) for pmid in range(1, 31)])
    corpus.extract("pmc/x", [document(pmid=pmid, id=f"pmcid:{pmid}") for pmid in range(1, 31)])
    sides = []
    for where, unit in ((abstracts, "pubmed/a"), (corpus, "pmc/x")):
        curate(where)
        sides.append({d["metadata"]["pmid"] for d in lines(where, unit, "validation")})
    assert sides[0] == sides[1]
    assert 0 < len(sides[0]) < 30


def test_counts_say_what_was_kept_and_dropped(corpus):
    corpus.extract(
        "pmc/x",
        [
            document(text="x" * 200, id="text:a", year=1999, journal="J"),
            document(text="x" * 255, id="text:b", year=1999),
            document(text="x" * 256, id="text:c", year=None, licence=None),
            document(text="x" * 99, id="text:d"),
            document(text="x" * 200, id="text:e", language="fre"),
        ],
    )
    curate(corpus)
    (result,) = finished(corpus.output / "curate")
    counts = result.counts
    splits = counts.pop("splits")
    assert sum(split["documents"] for split in splits.values()) == 3
    assert counts == {
        "documents": 5,
        "kept": 3,
        "dropped": {"language": 1, "too_short": 1},
        "kept_by": {
            "source": {"pmc": {"documents": 3, "characters": 711}},
            "year": {
                "1999": {"documents": 2, "characters": 455},
                "unknown": {"documents": 1, "characters": 256},
            },
            "licence": {
                "cc-by-4.0": {"documents": 2, "characters": 455},
                "unknown": {"documents": 1, "characters": 256},
            },
            "language": {"eng": {"documents": 3, "characters": 711}},
            "journal": {
                "J": {"documents": 1, "characters": 200},
                "unknown": {"documents": 2, "characters": 511},
            },
            "kind": {"full_text": {"documents": 3, "characters": 711}},
        },
        "lengths": {"128": 2, "256": 1},
        "samples": {
            "language": [{"id": "text:e", "title": "x" * 200}],
            "too_short": [{"id": "text:d", "title": "x" * 99}],
        },
    }


def test_files_are_written_even_when_empty(corpus):
    corpus.extract("pmc/x", [])
    curate(corpus)
    (result,) = finished(corpus.output / "curate")
    assert sorted(result.files) == [
        "dropped.jsonl.zst",
        "kept.parquet",
        "train.jsonl.zst",
        "validation.jsonl.zst",
    ]
    assert [lines(corpus, "pmc/x", n) for n in ("train", "validation", "dropped")] == [[], [], []]
    assert result.counts["splits"] == {
        split: {"documents": 0, "characters": 0} for split in ("train", "validation")
    }


def test_an_update_file_brings_up_exactly_the_units_whose_winners_changed(corpus):
    for unit, pmids in (("a", (1, 2)), ("b", (3, 4)), ("c", (5, 6))):
        corpus.extract(f"pubmed/{unit}", [citation(pmid) for pmid in pmids], (26, ord(unit)))
    corpus.extract("pmc/x", [document(pmid=99)])
    assert len(curate(corpus).ran) == 4
    corpus.extract("pubmed/d", [citation(3), deletion(6)], (26, 1000))
    report = curate(corpus)
    assert report.ran == ["pubmed/b", "pubmed/c", "pubmed/d"]
    assert report.done == ["pmc/x", "pubmed/a"]


def test_a_new_full_text_brings_up_the_unit_of_its_citation(corpus):
    corpus.extract("pubmed/a", [citation(1)], (26, 1))
    corpus.extract("pubmed/b", [citation(2)], (26, 2))
    curate(corpus)
    corpus.extract("pmc/x", [document(pmid=2)])
    assert curate(corpus).ran == ["pmc/x", "pubmed/b"]


def test_decisions_that_are_missing_or_old_are_refused(corpus):
    corpus.extract("pubmed/a", [citation(1)])
    with pytest.raises(DataError, match="no decisions yet"):
        CurateStage(corpus.config).units()
    curate(corpus)
    corpus.extract("pubmed/a", [citation(1), citation(2)])
    with pytest.raises(DataError, match=r"pubmed/a.*curate again"):
        CurateStage(corpus.config).units()


def test_documents_that_are_not_those_of_the_index_fail_their_unit(corpus):
    corpus.extract("pubmed/a", [citation(1), citation(2)])
    corpus.extract("pubmed/b", [citation(3)])
    run_stage(IdentifyStage(corpus.config))
    documents = corpus.output / "extract/pubmed/a/documents.jsonl.zst"
    other = corpus.output / "extract/pubmed/b/documents.jsonl.zst"
    documents.write_bytes(other.read_bytes())
    report = run_stage(CurateStage(corpus.config))
    assert list(report.failed) == ["pubmed/a"]
    assert "1 documents, but its index has 2" in report.failed["pubmed/a"]
    assert report.ran == ["pubmed/b"]


def test_kept_lines_are_those_that_were_extracted_and_are_listed_by_hash(corpus):
    events = [citation(pmid, text=f"Größe {pmid}\n\n" + "é" * 100) for pmid in range(1, 21)]
    corpus.extract("pubmed/a", [*events, deletion(3)])
    curate(corpus)
    extracted = list(raw_lines(corpus.output / "extract/pubmed/a/documents.jsonl.zst"))
    folder = corpus.output / "curate/pubmed/a"
    train, validation = (
        list(raw_lines(folder / f"{split}.jsonl.zst")) for split in ("train", "validation")
    )
    kept = [line for line in extracted if orjson.loads(line)["id"] != "pmid:3"]
    assert train == [line for line in kept if line in train]
    assert sorted(train + validation) == sorted(kept)
    table = pq.read_table(folder / "kept.parquet")
    documents = [orjson.loads(line) for line in kept]
    assert table["id_hash"].to_pylist() == [signed_hash(d["id"]) for d in documents]
    assert table["text_hash"].to_pylist() == [signed_hash(d["text"]) for d in documents]


def raw_lines(path):
    with zstandard.open(path, "rb") as stream:
        return stream.read().splitlines()


def signed_hash(text):
    return xxhash.xxh3_64_intdigest(text.encode()) - 2**63


def test_the_samples_of_a_reason_are_the_five_smallest_hashes(corpus):
    events = [document(text="short", id=f"text:{n}", title="T") for n in range(40)]
    corpus.extract("pmc/x", events)
    curate(corpus)
    (result,) = finished(corpus.output / "curate")
    expected = sorted((event["id"] for event in events), key=signed_hash)[:5]
    assert [sample["id"] for sample in result.counts["samples"]["too_short"]] == expected


def test_journals_beyond_the_largest_are_counted_together(corpus):
    events = [
        document(text="x" * 100, id=f"text:{n}", journal=f"J{min(n, 202):03d}") for n in range(205)
    ]
    corpus.extract("pmc/x", events)
    curate(corpus)
    (result,) = finished(corpus.output / "curate")
    journals = result.counts["kept_by"]["journal"]
    assert len(journals) == 201
    assert journals["J202"] == {"documents": 3, "characters": 300}
    assert journals["others"] == {"documents": 3, "characters": 300}


class Decided(Stage):
    """A later step's unit for each extracted unit, which drops the documents at some places."""

    name, version = "decontaminate", 1

    def __init__(self, corpus, dropped):
        self.directory, self.settings = corpus.output / self.name, {}
        self.dropped = dropped

    def units(self):
        return [Unit(name, {"dropped": str(about)}, 1) for name, about in self.dropped.items()]

    def run_unit(self, unit, folder):
        codes = np.array(self.dropped[unit.name], np.uint8)
        write_decisions(folder / "decisions.parquet", codes, ("keep", "contaminated"))
        return {}


def test_the_first_step_that_drops_a_document_says_why(corpus, tmp_path):
    questions = {"name": "q", "path": str(tmp_path / "q.jsonl"), "fields": ["question"]}
    corpus = Corpus(tmp_path / "clean", decontaminate={"benchmarks": [questions]})
    corpus.extract("pubmed/a", [citation(1), citation(2), citation(3), deletion(2)])
    corpus.extract("pubmed/b", [citation(4)])
    assert not run_stage(IdentifyStage(corpus.config)).failed
    with pytest.raises(DataError, match="decontaminate: no decisions yet"):
        CurateStage(corpus.config).units()
    run_stage(Decided(corpus, {"pubmed/a": [0, 1, 1]}))
    # pubmed/b is left out: the step failed on it.
    assert run_stage(CurateStage(corpus.config)).ran == ["pubmed/a"]
    reasons = {line["id"]: line["reason"] for line in lines(corpus, "pubmed/a", "dropped")}
    assert reasons == {"pmid:2": "deleted", "pmid:3": "contaminated"}
    run_stage(Decided(corpus, {"pubmed/a": [0, 1, 0], "pubmed/b": [1]}))
    assert run_stage(CurateStage(corpus.config)).ran == ["pubmed/a", "pubmed/b"]
