"""The whole path from XML to shard sets, as a user runs it: real processes on the bundled corpus."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizers import Tokenizer

from data_prep.__main__ import main
from data_prep.demo_corpus import CORPUS, unpack
from data_prep.documents import read_documents
from data_prep.files import read_json, sha256_file
from data_prep.shards.reader import ShardSet
from data_prep.shards.tools.verify import verify
from data_prep.units import finished
from tests import tiny
from tests.data_prep.shards.encoded import rebuilt
from tests.data_prep.sources.pubmed_files import citation, put

FACTS = json.loads((CORPUS / "facts.json").read_text())
SETS = ("pmc-train", "pmc-validation", "pubmed-train", "pubmed-validation")
STAGES = ("extract", "identify", "curate", "tokenizer", "pack", "shards")
# What may differ between two runs of the same corpus: times of files, and datatrove's own logs.
OUTSIDE_EQUALITY = ("hashes.jsonl", "run.json", "config.yaml", "lock")
KILLS = 3


def write_config(path: Path, raw: Path, output: Path, **changes: Any) -> Path:
    values = {
        "output": str(output),
        "sources": {
            "pubmed": {"format": "pubmed", "path": str(raw / "pubmed")},
            "pmc": {"format": "jats", "path": str(raw / "pmc")},
        },
        "curate": {"validation_fraction": 0.2},
        "tokenizer": {"train": {"vocab_size": 600}},
        "pack": {"sequence_length": 128, "row_group": 64, "window": 16},
    } | changes
    path.write_text(yaml.safe_dump(values))
    return path


def command(config: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "data_prep", "all", str(config), *overrides]


def data_prep(config: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(config, *overrides),
        cwd=tiny.ROOT,
        env=tiny.ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def built_by_two(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    config = write_config(folder / "corpus.yaml", raw, folder / "elsewhere", workers=2)
    ended = data_prep(config)
    assert ended.returncode == 0, ended.stderr
    return folder / "elsewhere"


@pytest.fixture(scope="module")
def concatenated(raw: Path, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished corpus, moved and packed anew by the other policy."""
    folder = tmp_path_factory.mktemp("concat")
    shutil.copytree(built, folder / "corpus")
    config = write_config(folder / "corpus.yaml", raw, folder / "corpus", workers=2)
    ended = data_prep(config, "--pack.policy", "concat")
    assert ended.returncode == 0, ended.stderr
    assert "curate  0 done, 3 were done before" in ended.stderr.splitlines()
    return folder / "corpus"


def content(corpus: Path) -> dict[str, str]:
    """SHA-256 of every file of a corpus folder by its path there."""
    return {
        str(path.relative_to(corpus)): sha256_file(path)
        for path in corpus.rglob("*")
        if path.is_file() and ".datatrove" not in path.parts and path.name not in OUTSIDE_EQUALITY
    }


def manifests(corpus: Path) -> dict[str, Any]:
    return {path.name: ShardSet(path).manifest for path in shard_sets(corpus)}


def shard_sets(corpus: Path) -> list[Path]:
    return sorted(path.parent for path in corpus.glob("shards/*/manifest.json"))


def ids(corpus: Path, source: str) -> list[str]:
    """Ids of the documents in a source's shard sets, as their documents.parquet lists them."""
    return sorted(
        name
        for split in ("train", "validation")
        for name in ShardSet(corpus / f"shards/{source}-{split}").documents()["id"].to_pylist()
    )


def test_two_workers_give_the_bytes_that_one_gives(built: Path, built_by_two: Path) -> None:
    assert tuple(manifests(built)) == SETS
    assert content(built) == content(built_by_two)
    hashes = [{n: m.hash for n, m in manifests(c).items()} for c in (built, built_by_two)]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("seed", [0])
def test_killed_at_random_moments_and_run_again_it_gives_the_same_bytes(
    raw: Path, built: Path, tmp_path: Path, seed: int
) -> None:
    draw, killed = random.Random(seed), 0
    config = write_config(tmp_path / "corpus.yaml", raw, tmp_path / "corpus", workers=2)
    for stage in sorted(draw.sample(STAGES, KILLS), key=STAGES.index):
        process = subprocess.Popen(
            command(config),
            cwd=tiny.ROOT,
            env=tiny.ENVIRONMENT,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        moment = draw.uniform(0, 0.4)  # seconds into the stage: some fall into the one after it
        folder = tmp_path / "corpus" / stage
        tiny.wait_for(lambda: folder.exists() or process.poll() is not None)  # noqa: B023
        time.sleep(moment)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed >= KILLS - 1  # the last one may come too late
    assert data_prep(config).returncode == 0
    assert content(tmp_path / "corpus") == content(built)


@pytest.mark.parametrize("policy", ["best_fit", "concat"])
def test_every_curated_document_is_in_the_shards_token_for_token(
    request: pytest.FixtureRequest, policy: str
) -> None:
    corpus = request.getfixturevalue({"best_fit": "built", "concat": "concatenated"}[policy])
    tokenizer = Tokenizer.from_file(str(corpus / "tokenizer/model/tokenizer.json"))
    end = tokenizer.token_to_id("<|endoftext|>")
    for name, manifest in manifests(corpus).items():
        source, _, split = name.partition("-")
        expected = {
            document["id"]: [*tokenizer.encode(document["text"]).ids, end]
            for path in (corpus / "curate" / source).glob(f"*/{split}.jsonl.zst")
            for document in read_documents(path)
        }
        folder = corpus / "shards" / name
        assert rebuilt([folder / file.name for file in manifest.files]) == expected
        assert verify(folder) == []
        assert manifest.policy == policy
        assert manifest.counts["documents"] == len(expected) > 0
        assert manifest.counts["tokens"] == sum(map(len, expected.values()))
        assert manifest.missing == []


def test_the_other_policy_has_the_same_documents_in_other_rows(
    built: Path, concatenated: Path
) -> None:
    one, other = manifests(built), manifests(concatenated)
    for name in SETS:
        assert one[name].counts["tokens"] == other[name].counts["tokens"]
        assert one[name].hash != other[name].hash
        # Concatenation leaves no empty place but at the end of each unit's file.
        rest = other[name].sequence_length * len(other[name].files)
        assert other[name].counts["padding"] < rest
    for source in ("pubmed", "pmc"):
        assert ids(built, source) == ids(concatenated, source)


def test_extraction_counts_what_the_facts_name(built: Path) -> None:
    counts = {unit.name: unit.counts for unit in finished(built / "extract")}
    for name, facts in FACTS["pubmed"].items():
        found = counts[f"pubmed/{name.removesuffix('.xml')}"]
        books = facts["book_articles"]
        assert found["documents"] == facts["citations"] + len(books)
        assert found["deletions"] == len(facts["deletions"])
        assert found["retracted"] == len(facts["pmids_retracted"])
        languages = Counter(facts["languages"]) + Counter({"eng": len(books)})
        assert found["languages"] == dict(languages)
        assert found["rejects"] == 0
    (articles,) = (found for name, found in counts.items() if name.startswith("pmc/"))
    assert articles["documents"] == len(FACTS["jats"])
    assert articles["retracted"] == sum(about["retracted"] for about in FACTS["jats"].values())


def kept_citations() -> set[int]:
    """PMIDs that the rules of the config leave of PubMed, by what the facts say of each file."""
    files = FACTS["pubmed"].values()
    after = FACTS["pubmed_after_both_files"]
    both = FACTS["across_sources"]["pmids_in_both"]
    there = {int(pmid) for facts in files for pmid in facts["year_of_journal_issue"]}
    books = {pmid for facts in files for pmid in facts["book_articles"]}
    dropped = [after["pmids_deleted_that_existed"], after["pmids_retracted"], map(int, both)]
    for facts in files:
        dropped += [facts["pmids_not_in_english"], facts["pmids_without_abstract"]]
        dropped += [facts["pmids_that_are_retraction_notices"], facts["pmids_that_are_errata"]]
    return (there | books) - {pmid for pmids in dropped for pmid in pmids}


def test_what_the_rules_keep_is_in_the_sets_and_nothing_else(built: Path) -> None:
    assert ids(built, "pubmed") == sorted(f"pmid:{pmid}" for pmid in kept_citations())
    # PMC99000005 is retracted in PubMed alone, which drops it in both forms.
    withdrawn = set(FACTS["across_sources"]["retracted_in_jats_only"]) | {"PMC99000005.xml"}
    withdrawn |= {name for name, about in FACTS["jats"].items() if about["is_retraction_notice"]}
    expected = [name for name in FACTS["jats"] if name not in withdrawn]
    assert ids(built, "pmc") == sorted(f"pmcid:{name.removesuffix('.xml')}" for name in expected)


def test_counts_of_the_stages_add_up(built: Path) -> None:
    extracted = {unit.name: unit.counts for unit in finished(built / "extract")}
    packed = {unit.name: unit.counts for unit in finished(built / "pack")}
    dropped: Counter[str] = Counter()
    for unit in finished(built / "curate"):
        counts = unit.counts
        assert counts["documents"] == extracted[unit.name]["documents"]
        assert counts["documents"] == counts["kept"] + sum(counts["dropped"].values())
        for split, of_split in counts["splits"].items():
            assert packed[unit.name][split]["documents"] == of_split["documents"]
        dropped.update(counts["dropped"])
    after = FACTS["pubmed_after_both_files"]
    assert dropped["deleted"] == len(after["pmids_deleted_that_existed"])
    assert dropped["superseded"] == len(after["pmids_revised"])
    # Two citations, and the full texts of one of them and of an article that PubMed does not hold.
    assert dropped["retracted"] == len(after["pmids_retracted"]) + 2
    assert dropped["has_full_text"] == 1
    for name, manifest in manifests(built).items():
        source, _, split = name.partition("-")
        units = [c[split] for unit, c in packed.items() if unit.startswith(f"{source}/")]
        assert manifest.counts == {key: sum(u[key] for u in units) for key in manifest.counts}


def cut_gzip(raw: Path) -> Path:
    path = raw / "pubmed/baseline/pubmed26n0001.xml.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    path.with_name(path.name + ".md5").unlink()
    return path


def cut_xml(raw: Path) -> Path:
    path = raw / "pubmed/updatefiles/pubmed26n0003.xml"
    whole = (CORPUS / "pubmed/pubmed26n0002.xml").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def test_a_broken_file_fails_its_unit_alone_and_is_named_in_the_manifest(tmp_path: Path) -> None:
    unpack(tmp_path / "raw")
    broken = [cut_gzip(tmp_path / "raw"), cut_xml(tmp_path / "raw")]
    config = write_config(tmp_path / "corpus.yaml", tmp_path / "raw", tmp_path / "corpus")
    ended = data_prep(config)
    assert ended.returncode == 1
    lines = ended.stderr.splitlines()
    assert "extract  2 done, 2 failed" in lines
    for path, reason in zip(broken, (r"byte \d", r"line \d"), strict=True):
        (line,) = (line for line in lines if str(path) in line)
        assert re.search(rf"broken at [a-z ]*{reason}.*PMID 9\d+; fetch the file again", line)
    assert lines[-1].startswith("extract: 2 failed (above); mend the input and run the same")
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "corpus/curate").exists()

    assert data_prep(config, "--allow-failed").returncode == 0
    for name, manifest in manifests(tmp_path / "corpus").items():
        missing = ["extract/pubmed/pubmed26n0001", "extract/pubmed/pubmed26n0003"]
        assert manifest.missing == (missing if name.startswith("pubmed") else [])
    # What is left of PubMed is the update file, whose citations no baseline record stands behind.
    update = FACTS["pubmed"]["pubmed26n0002.xml"]
    gone = [pmid for pmid, _ in update["deletions"]] + update["pmids_without_abstract"]
    gone += update["pmids_retracted"] + update["pmids_not_in_english"]
    gone += update["pmids_that_are_retraction_notices"]
    left = {int(pmid) for pmid in update["year_of_journal_issue"]} - set(gone)
    assert ids(tmp_path / "corpus", "pubmed") == sorted(f"pmid:{pmid}" for pmid in left)


@pytest.fixture
def pubmed_alone(tmp_path: Path) -> Callable[..., Path]:
    """A config of one PubMed folder with the given files' records, and a tokenizer of bytes."""

    def make(**files: list[str]) -> Path:
        (tmp_path / "raw").mkdir()
        for name, records in files.items():
            put(tmp_path / "raw", *records, name=f"{name}.xml")
        return write_config(
            tmp_path / "corpus.yaml",
            tmp_path,
            tmp_path / "corpus",
            sources={"pubmed": {"format": "pubmed", "path": str(tmp_path / "raw")}},
            curate={"min_characters": 1, "validation_fraction": 0.0},
            tokenizer={"path": str(tiny.byte_tokenizer(tmp_path / "tokenizer"))},
        )

    return make


def test_an_empty_folder_is_refused_with_its_field(
    pubmed_alone: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config = pubmed_alone()
    assert main(["all", str(config)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sources.pubmed.path: no file in ")
    assert str(config.parent / "raw") in line


def test_a_citation_without_a_pmid_is_rejected_and_the_others_go_on(
    pubmed_alone: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    good = [citation(pmid=f"<PMID Version='1'>{number}</PMID>") for number in (1, 3)]
    config = pubmed_alone(pubmed26n0001=[good[0], citation(pmid=""), good[1]])
    assert main(["all", str(config)]) == 0, capsys.readouterr().err
    corpus = config.parent / "corpus"
    (unit,) = finished(corpus / "extract")
    assert (unit.counts["documents"], unit.counts["rejects"]) == (2, 1)
    assert unit.counts["reject_reasons"] == {"no PMID": 1}
    (reject,) = read_documents(unit.folder / "rejects.jsonl.zst")
    assert reject == {"place": "pubmed26n0001.xml: record 2", "reason": "no PMID: found ''"}
    assert read_json(corpus / "shards/pubmed-train/manifest.json")["counts"]["documents"] == 2
    assert ShardSet(corpus / "shards/pubmed-train").documents()["id"].to_pylist() == [
        "pmid:1",
        "pmid:3",
    ]


def test_a_folder_in_which_nothing_passes_the_filters_is_said_to_be_so(
    pubmed_alone: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config = pubmed_alone(pubmed26n0001=[citation(abstract="")])
    assert main(["all", str(config)]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_tokenizer_that_is_not_there_is_named_by_its_field_before_any_stage(
    pubmed_alone: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config = pubmed_alone(pubmed26n0001=[citation()])
    assert main(["all", str(config), "--tokenizer.path", str(config.parent / "nowhere")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tokenizer.path: {config.parent / 'nowhere'}: no tokenizer there")
    assert not (config.parent / "corpus/download").exists()
