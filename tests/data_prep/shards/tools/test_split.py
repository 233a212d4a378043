"""A shard set is split by article, each part a set of its own."""

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from data_prep.__main__ import main
from data_prep.curate.filters import split_of
from data_prep.errors import ConfigError, DataError
from data_prep.shards.encoded import ABOUT
from data_prep.shards.manifest import Manifest
from data_prep.shards.tools.split import parse_weights, part_of, split
from data_prep.shards.tools.verify import verify
from data_prep.shards.writer import EncodedDocument
from tests.data_prep.shards.encoded import encoded_documents, rebuilt

MakeSet = Callable[..., Manifest]
WEIGHTS = {"train": 6, "validation": 3, "test": 1}


def expected_part(key: str, weights: dict[str, int], earlier: int = 0) -> str:
    """The rule in words: a number in [0, 1) from SHA-256, and the parts' shares in their order."""
    state = hashlib.sha256(f"split {earlier} {key}".encode()).digest()
    place = int.from_bytes(state[:8], "big") / 2**64 * sum(weights.values())
    for name, weight in weights.items():
        place -= weight
        if place < 0:
            return name
    raise AssertionError


def about(**columns: list) -> pa.Table:
    rows = len(columns["id"])
    known = columns | {"source": ["words"] * rows, "bytes": [1] * rows}
    return pa.table(
        {field.name: pa.array(known.get(field.name, [None] * rows), field.type) for field in ABOUT},
        schema=ABOUT,
    )


@pytest.mark.parametrize("policy", ["best_fit", "concat"])
@pytest.mark.parametrize("masked", [False, True])
def test_each_document_stands_whole_in_the_part_of_its_article(
    make_set: MakeSet, tmp_path: Path, policy: str, masked: bool
) -> None:
    documents = encoded_documents(300, longest=80, masked=masked)
    for document in documents:
        document.tokens[-1] = 299  # the end token, without which verify knows no document
    origin = make_set(tmp_path / "set", documents, policy=policy, has_loss_mask=masked)
    manifests = split(tmp_path / "set", tmp_path / "out", WEIGHTS)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(WEIGHTS)
    found: dict[str, str] = {}
    for name, manifest in manifests.items():
        folder = tmp_path / "out" / name
        assert verify(folder) == []
        assert Manifest.read(folder) == manifest
        assert (manifest.source, manifest.split) == (origin.source, name)
        assert (manifest.policy, manifest.sequence_length) == (policy, origin.sequence_length)
        inputs = pd.read_parquet(folder / "inputs.parquet")
        assert inputs.to_dict("records") == [{"name": "words-train", "hash": origin.hash}]
        shards = [folder / "shard.parquet"]
        tokens = rebuilt(shards)
        masks = rebuilt(shards, "loss_mask") if masked else None
        for document in documents:
            if document.id in tokens:
                assert tokens[document.id] == document.tokens.tolist()
                assert masks is None or masks[document.id] == document.loss_mask.tolist()  # type: ignore[union-attr]
        assert not found.keys() & tokens.keys()
        found |= dict.fromkeys(tokens, name)
    # pmid 0 is none, as in curation: the id is the key then.
    keys = {d.id: f"pmid:{d.metadata['pmid']}" if d.metadata["pmid"] else d.id for d in documents}
    assert found == {name: expected_part(key, WEIGHTS) for name, key in keys.items()}


def test_an_abstract_and_its_full_text_go_to_parts_of_one_name() -> None:
    numbers = list(range(1, 500))
    abstracts = about(id=[f"pmid:{n}" for n in numbers], pmid=numbers)
    full_texts = about(
        id=[f"pmcid:PMC{n}" for n in numbers],
        pmcid=[f"PMC{n}" for n in numbers],
        doi=[f"10.1/{n}" for n in numbers],
        pmid=numbers,
    )
    boundaries = np.array([3, 4])
    assert part_of(abstracts, boundaries, 0).tolist() == part_of(full_texts, boundaries, 0).tolist()


def test_without_a_pmid_the_doi_decides_and_then_the_pmcid_and_then_the_id() -> None:
    table = about(
        id=["a", "b", "c", "d"],
        pmid=[7, None, None, None],
        doi=["10.1/7", "10.1/8", None, None],
        pmcid=["PMC7", "PMC8", "PMC9", None],
    )
    weights = {str(part): 1 for part in range(1000)}
    boundaries = np.arange(1, 1001)
    keys = ["pmid:7", "doi:10.1/8", "pmcid:PMC9", "d"]
    found = [str(part) for part in part_of(table, boundaries, 2)]
    assert found == [expected_part(key, weights, 2) for key in keys]


def test_shares_come_out_right_on_what_is_a_part_already() -> None:
    keys = [f"pmid:{n}" for n in range(1, 40_001)]
    ours = [key for key in keys if split_of(key, 0.1) == "validation"]
    table = about(id=ours, pmid=[int(key[5:]) for key in ours])
    first = part_of(table, np.array([90, 100]), 0)
    # Five standard deviations of a binomial.
    assert abs(first.mean() - 0.1) < 5 * np.sqrt(0.1 * 0.9 / len(ours))
    rest = table.take(pa.array(np.flatnonzero(first == 0)))
    second = part_of(rest, np.array([90, 100]), 1)
    assert abs(second.mean() - 0.1) < 5 * np.sqrt(0.1 * 0.9 / len(rest))


def test_a_part_that_is_split_again_draws_anew(make_set: MakeSet, tmp_path: Path) -> None:
    make_set(tmp_path / "set", encoded_documents(200))
    split(tmp_path / "set", tmp_path / "one", {"a": 1, "b": 1})
    manifests = split(tmp_path / "one" / "a", tmp_path / "two", {"a": 1, "b": 1})
    assert all(manifest.counts["documents"] > 20 for manifest in manifests.values())
    assert [taken["part"] for taken in manifests["b"].settings["splits"]] == ["a", "b"]


def test_the_same_split_gives_the_same_bytes(make_set: MakeSet, tmp_path: Path) -> None:
    make_set(tmp_path / "set", encoded_documents(100))
    one = split(tmp_path / "set", tmp_path / "one", WEIGHTS)
    two = split(tmp_path / "set", tmp_path / "two", WEIGHTS)
    assert {name: m.hash for name, m in one.items()} == {name: m.hash for name, m in two.items()}


def test_a_part_without_documents_is_an_error_and_leaves_nothing(
    make_set: MakeSet, tmp_path: Path
) -> None:
    tokens = np.array([1, 2, 299])
    make_set(tmp_path / "set", [EncodedDocument("text:a#1", tokens, "words", 2)])
    with pytest.raises(DataError, match=r"no document goes to the part .*larger weight"):
        split(tmp_path / "set", tmp_path / "out", {"a": 1, "b": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_what_exists_is_not_overwritten(make_set: MakeSet, tmp_path: Path) -> None:
    make_set(tmp_path / "set", encoded_documents(10))
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        split(tmp_path / "set", tmp_path / "out", WEIGHTS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "train",
        "train=1",
        "a=1,a=2",
        "a=0,b=1",
        "a=-1,b=2",
        "a=1,b=x",
        "a=1,b=²",
        f"a=1,b={10**20}",
        "../a=1,b=1",
    ],
)
def test_parts_that_cannot_be_meant_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--parts"):
        parse_weights(text)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_stopped_leaves_nothing(
    make_set: MakeSet, tmp_path: Path, ending: signal.Signals
) -> None:
    make_set(tmp_path / "set", encoded_documents(10_000))
    words = [sys.executable, "-m", "data_prep", "split", tmp_path / "set", tmp_path / "out"]
    process = subprocess.Popen([*words, "--parts", "a=1,b=1"], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(tmp_path.glob(".out.*.partial/a/*.parquet")):
        time.sleep(0.001)
    process.send_signal(ending)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert error.endswith("stopped\n")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_the_command_tells_what_went_where(
    make_set: MakeSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_set(tmp_path / "set", encoded_documents(50))
    place, out = str(tmp_path / "set"), str(tmp_path / "out")
    assert main(["split", place, out, "--parts", "train=4,validation=1"]) == 0
    counts = Manifest.read(tmp_path / "out" / "train").counts
    assert f"{out}/train: {counts['documents']:,} documents" in capsys.readouterr().out
    assert main(["split", place, out]) == 2
    assert "--parts: '': expected names" in capsys.readouterr().err
