import itertools
import random

import pyarrow.parquet as pq
import pytest

from data_prep.curate.near_duplicates import NearDuplicatesStage
from data_prep.curate.signatures import SignaturesStage
from data_prep.curate.words import words
from data_prep.files import sha256_file
from data_prep.run.executor import run_stage
from data_prep.units import finished
from tests.data_prep.curate.identified import Identified

TEXT = (
    "Aspirin reduced the risk of a second stroke in 120 patients who were followed for two years. "
)


def deduplicate(corpus, workers=1):
    reports = [
        run_stage(stage(corpus.config), workers) for stage in (SignaturesStage, NearDuplicatesStage)
    ]
    assert not any(report.failed for report in reports)
    return reports


def clusters(corpus):
    rows = pq.read_table(corpus.output / "near_duplicates/all/clusters.parquet").to_pylist()
    return [(row["survivor"], row["dropped"]) for row in rows]


def dropped(corpus, unit, documents):
    reasons = corpus.decided(f"near_duplicates/all/decisions/{unit}.parquet")
    assert set(reasons) <= {"keep", "near_duplicate"}
    return {key for (key, _), reason in zip(documents, reasons, strict=True) if reason != "keep"}


def jaccard(left, right):
    """Exact similarity of the sets of five words."""
    sets = []
    for text in (left, right):
        split = words(text)
        sets.append({tuple(split[first : first + 5]) for first in range(len(split) - 4)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def variants(seed, families=40):
    """Families of texts of 150 words, each with copies in which few or many words are others."""
    drawn = random.Random(seed)
    vocabulary = [f"term{number}" for number in range(3000)]
    documents = []
    for family in range(families):
        base = drawn.choices(vocabulary, k=150)
        for copy, changed in enumerate((0, 1, 4, 15, 40)):
            text = list(base)
            for place in drawn.sample(range(150), changed):
                text[place] = drawn.choice(vocabulary)
            documents.append((f"text:{family}-{copy}", " ".join(text)))
    drawn.shuffle(documents)
    return documents


def test_found_and_missed_pairs_follow_the_exact_similarity(tmp_path):
    documents = variants(1)
    corpus = Identified(tmp_path, near_duplicates={})
    corpus.put({"a/x": documents[:90], "b/y": documents[90:]})
    deduplicate(corpus)
    survivor = {key: key for key, _ in documents} | {gone: kept for kept, gone in clusters(corpus)}
    similar = different = 0
    for (one, first), (other, second) in itertools.combinations(documents, 2):
        if one.partition("-")[0] != other.partition("-")[0]:
            assert survivor[one] != survivor[other]
            different += 1
        elif jaccard(first, second) >= 0.9:
            assert survivor[one] == survivor[other]
            similar += 1
    assert similar >= 40
    assert different > 10_000
    heavy = [key for key, _ in documents if key.endswith("-4")]  # 40 of 150 words: below 0.4
    assert all(survivor[key] == key for key in heavy)


def test_the_longest_text_stays_then_the_lowest_id(tmp_path):
    documents = [("p:2", TEXT), ("p:1", TEXT), ("p:3", TEXT + "!"), ("q", "Another text. " * 9)]
    corpus = Identified(tmp_path, near_duplicates={})
    corpus.put({"a/x": documents})
    deduplicate(corpus)
    assert clusters(corpus) == [("p:3", "p:1"), ("p:3", "p:2")]
    corpus.put({"a/x": documents[:2]})
    deduplicate(corpus)
    assert clusters(corpus) == [("p:1", "p:2")]
    assert dropped(corpus, "a/x", documents[:2]) == {"p:2"}


def test_a_document_that_was_dropped_before_stands_for_nothing(tmp_path):
    documents = [("p:1", TEXT + "Longer."), ("p:2", TEXT), ("p:3", TEXT), ("p:4", "too short")]
    corpus = Identified(tmp_path, near_duplicates={})
    corpus.put({"a/x": documents}, dropped={"p:1"})
    deduplicate(corpus)
    assert dropped(corpus, "a/x", documents) == {"p:3"}
    (result,) = finished(tmp_path / "near_duplicates")
    assert result.counts == {
        "compared": 3,
        "without_signature": 0,
        "near_duplicates": 1,
        "near_duplicates_by_source": {"a": 1},
        "clusters": 1,
        "largest_cluster": 2,
    }
    (signed,) = finished(tmp_path / "signatures")
    assert signed.counts == {"documents": 4, "too_short_to_compare": 1}


def test_workers_and_units_change_nothing(tmp_path):
    documents = variants(2, families=12)
    halves = {"a/x": documents[:25], "a/y": documents[25:40], "b/z": documents[40:], "b/none": []}
    files, kept = [], []
    for name, units, workers in (
        ("one", halves, 1),
        ("eight", halves, 8),
        ("other", {"b/all": documents[::-1]}, 1),
    ):
        corpus = Identified(tmp_path / name, near_duplicates={})
        corpus.put(units)
        deduplicate(corpus, workers)
        folders = [corpus.output / "signatures", corpus.output / "near_duplicates"]
        paths = [path for folder in folders for path in folder.rglob("*.parquet")]
        files.append({path.relative_to(corpus.output): sha256_file(path) for path in paths})
        kept.append(clusters(corpus))
    assert files[0] == files[1]
    assert len(files[0]) == 4 + 4 + 1
    assert kept[0] == kept[1] == kept[2]
    assert len(kept[0]) > 12


def test_a_new_unit_is_all_that_is_signed_again(tmp_path):
    corpus = Identified(tmp_path, near_duplicates={})
    first, second = [("p:1", TEXT), ("p:2", TEXT * 2)], [("p:3", TEXT + "And more.")]
    corpus.put({"a/x": first})
    deduplicate(corpus)
    # The new unit also replaces a record of the first, as an update file does.
    corpus.put({"a/x": first, "a/y": second}, dropped={"p:2"})
    signed, reduced = deduplicate(corpus)
    assert (signed.ran, signed.done) == (["a/y"], ["a/x"])
    assert reduced.ran == ["all"]
    assert dropped(corpus, "a/x", first) == {"p:1"}
    assert [report.ran for report in deduplicate(corpus)] == [[], []]


@pytest.mark.parametrize("harm", ["flipped", "gone"])
def test_damaged_signatures_are_refused_and_missing_ones_counted(tmp_path, harm):
    corpus = Identified(tmp_path, near_duplicates={})
    corpus.put({"a/x": [("p:1", TEXT)], "a/y": [("p:2", TEXT)]})
    deduplicate(corpus)
    path = tmp_path / "signatures/a/y/signatures.parquet"
    (tmp_path / "near_duplicates/all/unit.json").unlink()
    if harm == "flipped":
        content = bytearray(path.read_bytes())
        content[40] ^= 1
        path.write_bytes(content)
        failed = run_stage(NearDuplicatesStage(corpus.config)).failed
        assert "damaged, its SHA-256 is not the recorded one; remove the folder" in failed["all"]
    else:
        (path.parent / "unit.json").unlink()
        assert not run_stage(NearDuplicatesStage(corpus.config)).failed
        (result,) = finished(tmp_path / "near_duplicates")
        assert (result.counts["compared"], result.counts["without_signature"]) == (1, 1)
        assert clusters(corpus) == []


def test_settings_reach_the_signatures(tmp_path):
    corpus = Identified(
        tmp_path, near_duplicates={"words": 1, "buckets": 1, "hashes_per_bucket": 1}
    )
    corpus.put({"a/x": [("p:1", "alpha beta"), ("p:2", "beta alpha alpha"), ("p:3", "gamma")]})
    deduplicate(corpus)
    assert clusters(corpus) == [("p:2", "p:1")]
    table = pq.read_table(tmp_path / "signatures/a/x/signatures.parquet")
    assert table.column_names == ["bucket_00"]


def test_repeated_ids_keep_one_record(tmp_path):
    corpus = Identified(tmp_path, near_duplicates={})
    corpus.put({"a/x": [("p:1", TEXT)], "b/y": [("p:1", TEXT)]})
    deduplicate(corpus)
    assert corpus.decided("near_duplicates/all/decisions/a/x.parquet") == ["keep"]
    assert corpus.decided("near_duplicates/all/decisions/b/y.parquet") == ["near_duplicate"]
