import json
import random

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.config import NearDuplicates
from data_prep.curate import words as words_module
from data_prep.curate.benchmarks import Question
from data_prep.curate.decisions import write_decisions
from data_prep.curate.decontaminate import DecontaminateStage, contamination
from data_prep.curate.overlap import Overlap, longest_stretch
from data_prep.curate.words import words
from data_prep.errors import ConfigError
from data_prep.run.executor import run_stage
from data_prep.units import finished
from tests.data_prep.curate.identified import Identified, put_unit

QUESTION = (
    "A woman aged 45 has had fever, cough and night sweats for six weeks; "
    "which of these tests should be ordered first?"
)


def runs_of(text, longest):
    """The runs that are looked for, by plain tuples."""
    split = words(text)
    length = min(len(split), longest)
    if length < min(8, longest):
        return set()
    return {tuple(split[first : first + length]) for first in range(len(split) - length + 1)}


def shared_runs(document, question, longest):
    """How many places of a document begin a run of the question."""
    split = words(document)
    wanted = set().union(*(runs_of(text, longest) for text in question.texts))
    return sum(
        tuple(split[first : first + length]) in wanted
        for length in {len(run) for run in wanted}
        for first in range(len(split) - length + 1)
    )


@pytest.mark.parametrize("longest", [3, 8, 10, 13])
def test_matches_are_those_of_plain_tuples(longest):
    """Few different words, so that runs meet by chance and overlap."""
    drawn = random.Random(longest)
    vocabulary = ["A", "b", "C3", "癌", "1.5"]

    def text(least, most):
        return " ".join(drawn.choices(vocabulary, k=drawn.randint(least, most)))

    questions = [
        Question("b", str(number), tuple(text(0, 20) for _ in range(drawn.randint(0, 3))))
        for number in range(40)
    ]
    documents = [text(0, 200) for _ in range(60)]
    for number in range(0, 60, 5):  # some with a whole text of a question inside
        inside = " ".join(questions[drawn.randrange(40)].texts)
        documents[number] = f"{documents[number]}, {inside.upper()} ({text(0, 9)})"
    found = {
        (match.document, match.question): match.runs
        for match in Overlap(questions, longest).matches(documents)
    }
    expected = {
        (place, number): runs
        for place, document in enumerate(documents)
        for number, question in enumerate(questions)
        if (runs := shared_runs(document, question, longest))
    }
    assert found == expected
    assert len(expected) >= 5


def test_equal_hashes_of_other_words_are_no_match(monkeypatch):
    """With a multiplier of 1 a run's hash is the same in any order of its words."""
    monkeypatch.setattr(words_module, "_MULTIPLIER", np.uint64(1))
    overlap = Overlap([Question("b", "1", ("one two three four five six seven eight",))], 13)
    assert overlap.matches(["eight seven six five four three two one"]) == []
    (match,) = overlap.matches(["Zero one two three four five six seven eight nine"])
    assert (match.length, match.words) == (8, "one two three four five six seven eight")


def test_texts_below_eight_words_are_not_looked_for():
    questions = [
        Question("b", "short", ("one two three four five six seven", "yes")),
        Question("b", "long enough", ("yes", "one two three four five six seven eight")),
        Question("b", "none", ()),
    ]
    overlap = Overlap(questions, 13)
    assert overlap.checked.tolist() == [False, True, False]
    assert overlap.matches(["one two three four five six seven nine"]) == []
    assert Overlap(questions[:1], 13).matches(["one two three four five six seven"]) == []
    assert Overlap([], 13).matches(["anything"]) == []


def test_a_run_does_not_reach_into_the_next_document():
    overlap = Overlap([Question("b", "1", ("one two three four five six seven eight",))], 13)
    assert overlap.matches(["zero one two three four", "five six seven eight"]) == []


@pytest.mark.parametrize(
    ("runs", "longest"),
    [
        ([(3, 5)], (3, 5)),
        ([(0, 4), (2, 6), (9, 12)], (0, 6)),
        ([(0, 4), (4, 6), (7, 12), (8, 15)], (7, 15)),
        ([(0, 9), (1, 3)], (0, 9)),
    ],
)
def test_the_longest_stretch_covers_runs_without_a_gap(runs, longest):
    assert longest_stretch(runs) == longest


@pytest.fixture
def benchmark(tmp_path):
    path = tmp_path / "benchmark.jsonl"
    texts = [QUESTION, "Too short to check?", "糖尿病患者在日常生活中应该注意哪些饮食问题？"]
    path.write_text("\n".join(json.dumps({"question": text}) for text in texts))
    return path


@pytest.fixture
def corpus(tmp_path, benchmark):
    about = {"name": "exam", "path": str(benchmark), "fields": ["question"]}
    return Identified(tmp_path / "corpus", decontaminate={"benchmarks": [about]})


DOCUMENTS = [
    ("p:1", "Nothing of the kind is in this abstract, however long it may be in the end."),
    ("p:2", f"Teaching cases\n\n{QUESTION.upper()} Answer: see below. {QUESTION}"),
    ("p:3", f"Dropped before. {QUESTION}"),
    ("p:4", "前言：糖尿病患者在日常生活中，应该注意哪些饮食问题。"),
    ("p:5", "Short: Too short to check?"),
]


def decontaminate(corpus, workers=1):
    report = run_stage(DecontaminateStage(corpus.config), workers)
    assert not report.failed
    return report


def test_documents_that_share_a_run_go_and_the_report_says_why(corpus):
    corpus.put({"a/x": DOCUMENTS, "b/y": [], "b/z": DOCUMENTS[1:2]}, dropped={"p:3"})
    decontaminate(corpus, workers=2)
    gone = "contaminated"
    reasons = corpus.decided("decontaminate/a/x/decisions.parquet")
    assert reasons == ["keep", gone, "keep", gone, "keep"]
    english, chinese = pq.read_table(
        corpus.output / "decontaminate/a/x/matches.parquet"
    ).to_pylist()
    assert english == {
        "document": "p:2",
        "benchmark": "exam",
        "question": "0",
        "runs": 2 * (22 - 13 + 1),
        "length": 22,
        "words": " ".join(words(QUESTION)),
    }
    assert (chinese["document"], chinese["question"]) == ("p:4", "2")
    counts = {result.name: result.counts for result in finished(corpus.output / "decontaminate")}
    assert counts["a/x"] == {"checked": 4, "contaminated": 2, "contaminated_by": {"exam": 2}}
    assert counts["b/y"] == {"checked": 0, "contaminated": 0, "contaminated_by": {"exam": 0}}
    assert contamination(corpus.config) == [
        {
            "benchmark": "exam",
            "questions": 3,
            "too_short": 1,
            "matched": 2,
            "documents": 2,
            "commonest": [],
            "longest": [("p:2", "0"), ("p:4", "2")],
        }
    ]


def test_shared_phrases_are_listed_by_the_documents_that_have_them(corpus):
    phrase = ("fever, cough and night sweats for six weeks; which of these tests should be ordered "
              "first was asked")  # fmt: skip
    corpus.put({"a/x": [(f"p:{number}", f"{number} {phrase}") for number in range(5)]})
    decontaminate(corpus)
    (report,) = contamination(corpus.config)
    assert report["commonest"] == [(" ".join(words(phrase)[:-2]), 5)]
    assert (report["matched"], report["documents"]) == (1, 5)


def test_what_near_duplicates_dropped_is_not_looked_at(corpus):
    corpus.put({"a/x": DOCUMENTS})
    folder = corpus.output / "near_duplicates/all"
    codes = np.array([1, 1, 0, 0, 0], np.uint8)
    write_decisions(folder / "decisions/a/x.parquet", codes, ("keep", "near_duplicate"))
    put_unit(folder, "all", "near_duplicates")
    both = corpus.config.curate.model_copy(update={"near_duplicates": NearDuplicates()})
    config = corpus.config.model_copy(update={"curate": both})
    assert not run_stage(DecontaminateStage(config)).failed
    reasons = corpus.decided("decontaminate/a/x/decisions.parquet")
    assert reasons == ["keep", "keep", "contaminated", "contaminated", "keep"]
    assert finished(corpus.output / "decontaminate")[0].counts["checked"] == 3


def test_a_changed_benchmark_or_decision_is_looked_up_again(corpus, benchmark):
    corpus.put({"a/x": DOCUMENTS, "b/y": DOCUMENTS[:1]})
    assert decontaminate(corpus).ran == ["a/x", "b/y"]
    assert decontaminate(corpus).ran == []
    corpus.put({"a/x": DOCUMENTS, "b/y": DOCUMENTS[:1]}, dropped={"p:4"})
    assert decontaminate(corpus).ran == ["a/x"]
    benchmark.write_text(benchmark.read_text().replace("fever", "pain"))
    assert decontaminate(corpus).ran == ["a/x", "b/y"]


def test_a_benchmark_that_changes_while_the_stage_runs_fails_its_units(corpus, benchmark):
    corpus.put({"a/x": DOCUMENTS})
    stage = DecontaminateStage(corpus.config)
    benchmark.write_text(benchmark.read_text() + "\n")
    assert "changed since the stage began" in run_stage(stage).failed["a/x"]


def test_a_field_that_is_not_there_stops_the_stage_before_it_begins(corpus, benchmark):
    benchmark.write_text(json.dumps({"stem": "x"}))
    corpus.put({"a/x": DOCUMENTS})
    with pytest.raises(ConfigError, match=r"has text in the field 'question'; name some of: stem"):
        run_stage(DecontaminateStage(corpus.config))


def test_abstracts_of_a_real_benchmark_are_found_and_others_are_not(tmp_path, real_data):
    path = real_data / "eval/pubmedqa_ori_pqal.json"
    records = list(json.loads(path.read_text()).items())
    half = tmp_path / "half.json"
    half.write_text(json.dumps(dict(records[::2])))
    about = {"name": "pubmedqa", "path": str(half), "fields": ["QUESTION", "CONTEXTS"]}
    corpus = Identified(tmp_path / "corpus", decontaminate={"benchmarks": [about]})
    documents = [
        (f"pmid:{key}", "A title\n\n" + "\n".join([*record["CONTEXTS"], record["LONG_ANSWER"]]))
        for key, record in records
    ]
    corpus.put({"a/x": documents})
    decontaminate(corpus)
    reasons = corpus.decided("decontaminate/a/x/decisions.parquet")
    assert set(reasons[::2]) == {"contaminated"}
    # Abstracts that other abstracts quote at length: checked against plain tuples.
    questions = [Question("b", key, (r["QUESTION"], *r["CONTEXTS"])) for key, r in records[::2]]
    wanted = set().union(*(runs_of(text, 13) for one in questions for text in one.texts))
    lengths = {len(run) for run in wanted}
    for reason, (_, text) in zip(reasons[1::2], documents[1::2], strict=True):
        split = words(text)
        shares = any(
            tuple(split[first : first + length]) in wanted
            for length in lengths
            for first in range(len(split) - length + 1)
        )
        assert (reason == "contaminated") == shares
    (report,) = contamination(corpus.config)
    assert (report["questions"], report["matched"]) == (500, 500)
