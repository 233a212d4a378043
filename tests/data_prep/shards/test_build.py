"""The stages carry curated documents into shard sets, whole, linked, and the same every time."""

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import gigatoken
import numpy as np
import pandas as pd
import pytest

from data_prep.config import CorpusConfig
from data_prep.config_file import validate
from data_prep.errors import ConfigError, DataError
from data_prep.files import sha256_file
from data_prep.run.executor import run_stage
from data_prep.shards.assemble import shard_format
from data_prep.shards.build import (
    PackStage,
    ShardSetStage,
    check_tokenizer,
    encode_documents,
    with_boundaries,
)
from data_prep.shards.reader import ShardSet
from data_prep.shards.tools.verify import verify
from data_prep.tokenizer.encode import EncodedTexts, load_encoder
from data_prep.tokenizer.train import TokenizerStage
from data_prep.units import finished
from tests.data_prep.shards.curated import TEXTS, Curated, run_all
from tests.data_prep.shards.encoded import rebuilt


@pytest.mark.parametrize("policy", ["best_fit", "concat"])
def test_every_curated_document_is_in_its_set_token_for_token(
    tmp_path: Path, config: Callable[..., CorpusConfig], tokenizer: Path, policy: str
) -> None:
    reports = run_all(config(tmp_path, policy=policy))
    assert [report.failed for report in reports] == [{}] * 4
    encoder = load_encoder(tokenizer)
    names = {
        path.name
        for path in (tmp_path / "shards").iterdir()
        if path.is_dir() and path.name[0] != "."
    }
    # No validation documents of "other": no set, and no file of unit b in the set of the others.
    assert names == {"words-train", "words-validation", "other-train"}
    assert not (tmp_path / "pack/words/b/validation.parquet").exists()
    for name in names:
        folder = tmp_path / "shards" / name
        source, _, split = name.partition("-")
        expected = {
            f"text:{unit}/{split}#{number}": [*encoder.encode([text])[0].tolist(), encoder.end_id]
            for unit, splits in TEXTS.items()
            for number, text in enumerate(splits[split])
            if unit.startswith(source)
        }
        manifest = ShardSet(folder).manifest
        found = rebuilt([folder / file.name for file in manifest.files])
        assert found == expected
        assert verify(folder) == []
        assert (manifest.source, manifest.split) == (source, split)
        assert manifest.counts["documents"] == len(expected)


def test_documents_begin_with_the_begin_token_where_the_config_says_so(
    tmp_path: Path, config: Callable[..., CorpusConfig], tokenizer: Path
) -> None:
    run_all(config(tmp_path, begin_token=True))
    folder = tmp_path / "shards" / "other-train"
    encoder = load_encoder(tokenizer)
    text = encoder.encode(["one text"])[0].tolist()
    assert ShardSet(folder).manifest.begin_token
    expected = [encoder.begin_id, *text, encoder.end_id]
    assert rebuilt([folder / "c.parquet"]) == {"text:other/c/train#0": expected}


def test_inner_ends_of_a_cut_document_get_no_token(
    tmp_path: Path, config: Callable[..., CorpusConfig], tokenizer: Path
) -> None:
    run_all(config(tmp_path, begin_token=True, sequence_length=8))
    encoder = load_encoder(tokenizer)
    frame = pd.read_parquet(tmp_path / "shards" / "words-train" / "b.parquet")
    tokens = np.concatenate(frame["tokens"].to_list())
    length = sum(piece["length"] for row in frame["documents"] for piece in row)
    assert len(frame) > 1
    assert np.flatnonzero(tokens[:length] == encoder.end_id).tolist() == [0, length - 1]


def test_documents_are_listed_with_what_is_known_of_them(
    tmp_path: Path, config: Callable[..., CorpusConfig]
) -> None:
    run_all(config(tmp_path))
    shards = ShardSet(tmp_path / "shards" / "words-train")
    frame = shards.documents().to_pandas()
    assert frame["id"].tolist() == sorted(frame["id"])
    assert set(frame["year"]) == {1990}
    assert frame["pmid"].isna().all()
    texts = {f"text:words/a/train#{n}": text for n, text in enumerate(TEXTS["words/a"]["train"])}
    for _, row in frame.iterrows():
        if row["id"] in texts:
            assert row["bytes"] == len(texts[row["id"]].encode())
        # Rows are numbered through the files of the set.
        for number in row["rows"]:
            group = int(np.searchsorted(np.cumsum(shards.row_groups), number, side="right"))
            within = number - int(shards.row_groups[:group].sum())
            assert row["id"] in shards.document_ids(group)[within]


def test_sets_are_the_same_bytes_for_any_number_of_workers(
    tmp_path: Path, config: Callable[..., CorpusConfig]
) -> None:
    for workers in (1, 2):
        run_all(config(tmp_path / str(workers)), workers=workers)
    for name in ("words-train", "words-validation", "other-train"):
        first, second = (tmp_path / workers / "shards" / name for workers in "12")
        files = [path.relative_to(first) for path in first.rglob("*") if path.is_file()]
        assert Path("manifest.json") in files
        for file in files:
            assert (first / file).read_bytes() == (second / file).read_bytes()


def test_set_files_are_links_to_the_packed_units(
    tmp_path: Path, config: Callable[..., CorpusConfig]
) -> None:
    run_all(config(tmp_path))
    packed = tmp_path / "pack" / "words" / "a" / "train.parquet"
    assert packed.samefile(tmp_path / "shards" / "words-train" / "a.parquet")


def test_the_set_names_its_inputs_by_their_hashes(
    tmp_path: Path, config: Callable[..., CorpusConfig]
) -> None:
    run_all(config(tmp_path))
    frame = pd.read_parquet(tmp_path / "shards" / "words-train" / "inputs.parquet")
    packed = {unit.name: unit.hash for unit in finished(tmp_path / "pack")}
    assert dict(zip(frame["name"], frame["hash"], strict=True)) == {
        name: packed[name] for name in ("words/a", "words/b")
    }


def test_only_what_changed_is_packed_again(
    tmp_path: Path, config: Callable[..., CorpusConfig]
) -> None:
    run_all(config(tmp_path))
    assert all(report.ran == [] for report in run_all(config(tmp_path)))
    changed = TEXTS | {"words/b": {"train": ["acute " * 61], "validation": []}}
    _, _, pack, shards = run_all(config(tmp_path), changed)
    assert pack.ran == ["words/b"]
    assert shards.ran == ["words-train"]


def test_a_broken_unit_is_named_as_missing_and_the_others_are_packed(
    tmp_path: Path, config: Callable[..., CorpusConfig]
) -> None:
    settings = config(tmp_path)
    run_stage(Curated(settings, TEXTS))
    run_stage(TokenizerStage(settings))
    broken = tmp_path / "curate" / "words" / "b" / "train.jsonl.zst"
    broken.write_bytes(b"\0" * broken.stat().st_size)
    report = run_stage(PackStage(settings))
    assert list(report.failed) == ["words/b"]
    assert str(broken) in report.failed["words/b"]
    run_stage(ShardSetStage(settings))
    manifest = ShardSet(tmp_path / "shards" / "words-train").manifest
    assert manifest.missing == ["pack/words/b"]
    assert [file.name for file in manifest.files] == ["a.parquet"]
    # Mended, it is packed, and the set is made again with it.
    shutil.rmtree(tmp_path / "curate")
    run_all(settings)
    manifest = ShardSet(tmp_path / "shards" / "words-train").manifest
    assert (manifest.missing, len(manifest.files)) == ([], 2)


def test_files_called_as_the_lists_of_a_set_are_packed_like_others(
    tmp_path: Path, config: Callable[..., CorpusConfig]
) -> None:
    texts = {f"words/{name}": TEXTS["words/b"] for name in ("documents", "inputs", "other")}
    reports = run_all(config(tmp_path), texts)
    assert [report.failed for report in reports] == [{}] * 4
    folder = tmp_path / "shards" / "words-train"
    assert verify(folder) == []
    shards = ShardSet(folder)
    names = [file.name for file in shards.manifest.files]
    assert names == ["documents__shard.parquet", "inputs__shard.parquet", "other.parquet"]
    ids = [f"text:{unit}/train#0" for unit in texts]
    assert shards.documents()["id"].to_pylist() == ids
    for unit in finished(tmp_path / "pack"):  # what the set's files are links to is as it was
        for name, about in unit.files.items():
            assert sha256_file(unit.folder / name) == about["sha256"]


def test_a_sample_on_which_the_encoders_differ_slows_its_own_unit_alone(
    tmp_path: Path, config: Callable[..., CorpusConfig], tokenizer: Path
) -> None:
    settings = config(tmp_path)
    run_stage(Curated(settings, {"words/a": TEXTS["words/b"], "words/b": TEXTS["other/c"]}))
    paths = [tmp_path / f"curate/words/{name}/train.jsonl.zst" for name in "ab"]
    encoder = load_encoder(tokenizer)
    form = shard_format(
        encoder, sequence_length=64, policy="best_fit", row_group=64, begin_token=False
    )
    # An encoder that knows three merges: of these documents it is wrong about both.
    content = json.loads((tokenizer / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][:3]
    right, wrong = encoder._fast, gigatoken.Tokenizer.from_json(json.dumps(content))
    assert right is not None

    def tokens(path: Path) -> list[list[int]]:
        return [
            batch.tokens[begin:end].tolist()
            for batch in encode_documents(path, encoder, form)
            for begin, end in pairwise(batch.starts)
        ]

    expected = [tokens(path) for path in paths]
    encoder._fast = wrong
    assert [tokens(path) for path in paths] == expected
    assert encoder._fast is wrong  # what a unit's sample showed is forgotten with the unit


def test_packing_needs_a_tokenizer_first(
    tmp_path: Path, config: Callable[..., CorpusConfig]
) -> None:
    settings = config(tmp_path)
    run_stage(Curated(settings, TEXTS))
    with pytest.raises(DataError, match="run the stage tokenizer first"):
        PackStage(settings).units()


def test_a_tokenizer_that_encodes_otherwise_than_it_did_packs_nothing(
    tmp_path: Path, config: Callable[..., CorpusConfig]
) -> None:
    settings = config(tmp_path)
    run_stage(Curated(settings, TEXTS))
    run_stage(TokenizerStage(settings))
    path = tmp_path / "tokenizer" / "model" / "unit.json"
    record = json.loads(path.read_text())
    record["counts"]["fingerprint"] = "0" * 64  # what other libraries would have given it
    path.write_text(json.dumps(record))
    report = run_stage(PackStage(settings))
    assert set(report.failed) == set(TEXTS)
    assert all("encodes otherwise" in reason for reason in report.failed.values())


def test_a_begin_token_that_does_not_exist_is_refused(
    tmp_path: Path, config: Callable[..., CorpusConfig], tokenizer: Path
) -> None:
    folder = tmp_path / "endless"
    shutil.copytree(tokenizer, folder)
    names = {"bos_token": None, "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    settings = config(tmp_path, begin_token=True)
    settings = validate(
        CorpusConfig, settings.model_dump() | {"tokenizer": {"path": str(folder)}}, "test"
    )
    with pytest.raises(ConfigError, match=r"pack\.begin_token: is true") as before_all_stages:
        check_tokenizer(settings)
    with pytest.raises(ConfigError) as before_packing:
        run_all(settings)
    assert str(before_packing.value) == str(before_all_stages.value)


@pytest.mark.parametrize("begin", [None, 8])
def test_boundaries_stand_before_and_after_every_text(begin: int | None) -> None:
    texts = [[1, 2], [], [3]]
    ids = np.array([token for text in texts for token in text], np.uint32)
    encoded = with_boundaries(EncodedTexts(ids, np.array([0, 2, 2, 3])), begin, 9)
    before = [] if begin is None else [begin]
    assert [part.tolist() for part in encoded] == [[*before, *text, 9] for text in texts]


PACKINGS = [
    {"policy": "per_document", "epochs": 3, "sequence_length": 16},
    {"policy": "concat", "shuffle_documents": 8, "min_tokens": 20, "seed": 5},
    {"policy": "best_fit", "shuffle_documents": 8, "min_tokens": 20, "seed": 5},
]


@pytest.mark.parametrize("pack", PACKINGS, ids=lambda pack: pack["policy"])
def test_settings_of_packing_reach_the_sets(
    tmp_path: Path, config: Callable[..., CorpusConfig], tokenizer: Path, pack: dict[str, Any]
) -> None:
    run_all(config(tmp_path, **pack))
    folder = tmp_path / "shards" / "words-train"
    shards = ShardSet(folder)
    encoder = load_encoder(tokenizer)
    lengths = {
        f"text:{unit}/train#{number}": len(encoder.encode([text])[0]) + 1
        for unit in ("words/a", "words/b")
        for number, text in enumerate(TEXTS[unit]["train"])
    }
    kept = {name: length for name, length in lengths.items() if length >= pack.get("min_tokens", 1)}
    frame = shards.documents().to_pandas()
    assert dict(zip(frame["id"], frame["tokens"], strict=True)) == kept
    counts = shards.manifest.counts
    assert counts["too_short"] == len(lengths) - len(kept)
    assert counts["document_tokens"] == sum(kept.values())
    assert (shards.manifest.policy, shards.manifest.epochs) == (
        pack["policy"],
        pack.get("epochs", 1),
    )
    assert set(frame["rows"].map(len)) == {3} if "epochs" in pack else counts["rows"] > 1
    assert verify(folder) == []


def test_documents_of_a_unit_of_which_all_are_too_short_are_counted(
    tmp_path: Path, config: Callable[..., CorpusConfig]
) -> None:
    units = {
        "words/a": {"train": ["acute renal failure " * 9], "validation": []},
        "words/b": {"train": ["x", "y"], "validation": ["z"]},
    }
    made = config(tmp_path, min_tokens=20)
    run_all(made, units)
    counts = ShardSet(tmp_path / "shards/words-train").manifest.counts
    assert (counts["documents"], counts["too_short"]) == (1, 2)
    assert [path.name for path in (tmp_path / "shards").glob("words-*")] == ["words-train"]
    assert verify(tmp_path / "shards/words-train") == []
    units["words/b"]["train"].append("w")
    run_all(made, units)
    assert ShardSet(tmp_path / "shards/words-train").manifest.counts["too_short"] == 3


def test_another_seed_puts_other_documents_beside_each_other(
    tmp_path: Path, config: Callable[..., CorpusConfig]
) -> None:
    orders = []
    for seed in (0, 1):
        pack = {"policy": "concat", "shuffle_documents": 40, "seed": seed}
        run_all(config(tmp_path / str(seed), **pack))
        frame = pd.read_parquet(tmp_path / str(seed) / "shards/words-train/a.parquet")
        pieces = [piece["id"] for row in frame["documents"] for piece in row]
        orders.append(list(dict.fromkeys(pieces)))
    came = [f"text:words/a/train#{number}" for number in range(40)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(came)
    assert came != orders[0] != orders[1] != came
