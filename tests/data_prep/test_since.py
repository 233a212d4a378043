"""A second corpus of what is new since the first, as a user makes it of a baseline and its updates."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq
import zstandard

from data_prep.__main__ import main
from data_prep.demo_corpus import CORPUS
from tests.data_prep.test_pipeline import write_config

FACTS = json.loads((CORPUS / "facts.json").read_text())


def texts(output: Path) -> dict[str, str]:
    """Text by id of what a corpus kept."""
    kept = {}
    for split in ("train", "validation"):
        for path in output.glob(f"curate/pubmed/*/{split}.jsonl.zst"):
            with zstandard.open(path, "rt", encoding="utf-8") as lines:
                kept |= {row["id"]: row["text"] for row in map(json.loads, lines)}
    return kept


def pmids(*groups: Iterable[int]) -> set[str]:
    return {f"pmid:{pmid}" for group in groups for pmid in group}


def test_only_what_the_update_file_brought_is_in_the_corpus_since_the_baseline(
    raw, tmp_path, capsys
):
    for name, folders in (("first", ["baseline"]), ("second", ["baseline", "updatefiles"])):
        for folder in folders:
            shutil.copytree(raw / "pubmed" / folder, tmp_path / "raw" / name / folder)
        source = {"format": "pubmed", "path": str(tmp_path / "raw" / name)}
        config = write_config(
            tmp_path / f"{name}.yaml", raw, tmp_path / name, sources={"pubmed": source}
        )
        since = ["--since", str(tmp_path / "first")] if name == "second" else []
        for stage in ("download", "extract", "curate"):
            assert main([stage, str(config), *since]) == 0, capsys.readouterr().err

    first, second = texts(tmp_path / "first"), texts(tmp_path / "second")
    after, update = FACTS["pubmed_after_both_files"], FACTS["pubmed"]["pubmed26n0002.xml"]
    gone = pmids(after["pmids_deleted_that_existed"], after["pmids_retracted"])
    dropped = gone | pmids(
        update["pmids_not_in_english"],
        update["pmids_without_abstract"],
        update["pmids_that_are_retraction_notices"],
    )
    assert set(second) == pmids(after["pmids_new"], after["pmids_revised"]) - dropped
    changed = pmids(after["example_changed_text"]) - dropped
    assert changed == set(first) & set(second)
    for name in changed:
        phrase = after["example_changed_text"][name.removeprefix("pmid:")]
        assert phrase in second[name]
        assert phrase not in first[name]

    (path,) = (tmp_path / "second").glob("identify/*/withdrawn.parquet")
    withdrawn = {row["id"]: row["reason"] for row in pq.read_table(path).to_pylist()}
    deleted = pmids(after["pmids_deleted_that_existed"])
    assert withdrawn == {
        name: "deleted" if name in deleted else "retracted" for name in gone & set(first)
    }
    assert set(withdrawn.values()) == {"deleted", "retracted"}
