"""merge() makes one good set of several without touching a row, or nothing at all."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from data_prep.__main__ import main
from data_prep.errors import ConfigError, DataError
from data_prep.files import sha256_file
from data_prep.shards.assemble import Part, assemble, build_shard_set
from data_prep.shards.manifest import DOCUMENTS_FILE, INPUTS_FILE, TOKENIZER_FOLDER, Manifest
from data_prep.shards.tools.merge import merge
from data_prep.shards.tools.verify import verify
from data_prep.shards.writer import EncodedDocument
from tests.data_prep.shards.encoded import encoded_documents, rebuilt

MakeSet = Callable[..., Manifest]


def documents(name: str, number: int = 40, seed: int = 0) -> list[EncodedDocument]:
    """Random documents with ids of their own that end with the end token."""
    made = encoded_documents(number, seed)
    for document in made:
        document.id = document.id.replace("pmid", name)
        document.tokens[-1] = 299
    return made


@pytest.fixture
def two(tmp_path: Path, make_set: MakeSet) -> list[Path]:
    """Two sets of one format."""
    made = [tmp_path / "a", tmp_path / "b"]
    for seed, folder in enumerate(made):
        make_set(folder, documents(folder.name, 30 + 20 * seed, seed))
    return made


def test_the_merged_set_is_good_and_holds_every_document(tmp_path: Path, two: list[Path]) -> None:
    merged = merge(two, tmp_path / "merged")
    assert verify(tmp_path / "merged") == []
    found = rebuilt([tmp_path / "merged" / file.name for file in merged.files])
    expected = {
        document.id: document.tokens.tolist()
        for seed, folder in enumerate(two)
        for document in documents(folder.name, 30 + 20 * seed, seed)
    }
    assert found == expected


@pytest.mark.parametrize(("policy", "epochs"), [("concat", 1), ("per_document", 3)])
def test_sets_of_every_policy_are_merged(
    tmp_path: Path, make_set: MakeSet, policy: str, epochs: int
) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        make_set(folder, documents(folder.name), policy=policy, epochs=epochs)
    merge(folders, tmp_path / "merged")
    assert verify(tmp_path / "merged") == []


def test_sets_of_several_files_are_merged(tmp_path: Path, two: list[Path]) -> None:
    """What is merged can be merged again, and the list tells the rows of each file apart."""
    first = Manifest.read(two[0])
    (tmp_path / "many").mkdir()
    assemble(
        tmp_path / "many",
        [
            Part(folder.name, folder / "shard.parquet", folder / DOCUMENTS_FILE, counts)
            for folder in two
            for counts in [Manifest.read(folder).counts]
        ],
        first.form,
        source="words",
        split="train",
        tokenizer=two[0] / TOKENIZER_FOLDER,
        settings=first.settings,
        inputs={"words/two": "hash"},
    )
    merge([tmp_path / "many", _with_ids(tmp_path / "d", two[0])], tmp_path / "merged")
    assert verify(tmp_path / "merged") == []


def _with_ids(folder: Path, like: Path) -> Path:
    """A set like another one of other documents."""
    folder.mkdir()
    manifest = Manifest.read(like)
    build_shard_set(
        folder,
        documents("d"),
        manifest.form,
        window=16,
        source="words",
        split="train",
        tokenizer=like / TOKENIZER_FOLDER,
        settings=manifest.settings,
        inputs={"words/one": "other"},
    )
    return folder


def test_files_are_links_and_counts_add_up(tmp_path: Path, two: list[Path]) -> None:
    merged = merge(two, tmp_path / "merged")
    manifests = [Manifest.read(folder) for folder in two]
    assert merged.counts == {
        name: sum(manifest.counts[name] for manifest in manifests) for name in merged.counts
    }
    assert [file.name for file in merged.files] == ["001-shard.parquet", "002-shard.parquet"]
    for folder, file in zip(two, merged.files, strict=True):
        assert (tmp_path / "merged" / file.name).samefile(folder / "shard.parquet")
    assert Manifest.read(tmp_path / "merged").hash == merged.hash


def test_the_list_is_that_of_both_sorted(tmp_path: Path, two: list[Path]) -> None:
    merge(two, tmp_path / "merged")
    first, second = (pd.read_parquet(folder / DOCUMENTS_FILE) for folder in two)
    second["rows"] = second["rows"] + Manifest.read(two[0]).counts["rows"]
    expected = pd.concat([first, second]).sort_values("id", ignore_index=True)
    found = pd.read_parquet(tmp_path / "merged" / DOCUMENTS_FILE)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)


def test_inputs_are_united_and_keep_what_differs(tmp_path: Path, two: list[Path]) -> None:
    other = _with_ids(tmp_path / "d", two[0])
    merge([*two, other], tmp_path / "merged")
    lines = pq.read_table(tmp_path / "merged" / INPUTS_FILE).to_pylist()
    assert {line["name"]: line["hash"] for line in lines} == {
        "words/one": "hash",
        "003-words/one": "other",
    }


def test_merging_twice_gives_the_same_set(tmp_path: Path, two: list[Path]) -> None:
    assert merge(two, tmp_path / "one").hash == merge(two, tmp_path / "other").hash


def test_a_document_in_two_sets_is_refused_and_nothing_is_left(
    tmp_path: Path, two: list[Path], make_set: MakeSet
) -> None:
    make_set(tmp_path / "again", documents("b", 1, 1) + documents("z"))
    with pytest.raises(DataError) as raised:
        merge([*two, tmp_path / "again"], tmp_path / "merged")
    assert str(raised.value) == (
        f"merge: document 'b:0' is in {two[1]} and {tmp_path / 'again'}; leave one of the sets out"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "again"}


@pytest.mark.parametrize(
    ("field", "value"),
    [("sequence_length", 64), ("row_group", 16), ("policy", "concat"), ("end_id", 298)],
)
def test_sets_of_other_formats_are_refused_with_the_field(
    tmp_path: Path, two: list[Path], make_set: MakeSet, field: str, value: object
) -> None:
    other = make_set(tmp_path / "other", documents("c"), **{field: value})
    ours = getattr(Manifest.read(two[0]), field)
    with pytest.raises(DataError) as raised:
        merge([*two, tmp_path / "other"], tmp_path / "merged")
    assert str(raised.value) == (
        f"merge: {tmp_path / 'other'}: {field} is {getattr(other, field)}, that of {two[0]} is {ours}"
    )
    assert not (tmp_path / "merged").exists()


def _renamed(folder: Path, **fields: str) -> None:
    manifest = Manifest.read(folder)
    Manifest.model_validate(manifest.model_dump() | fields).write(folder)


def test_another_split_is_refused(tmp_path: Path, two: list[Path]) -> None:
    _renamed(two[1], split="validation")
    with pytest.raises(DataError, match=r"split is validation, that of .* is train"):
        merge(two, tmp_path / "merged", source="all")


def test_other_sources_need_a_name(tmp_path: Path, two: list[Path]) -> None:
    _renamed(two[1], source="papers")
    with pytest.raises(DataError, match=r"source is papers, .*; name one with --source"):
        merge(two, tmp_path / "merged")
    assert merge(two, tmp_path / "merged", source="all").source == "all"


def test_what_exists_is_left_alone(tmp_path: Path, two: list[Path]) -> None:
    with pytest.raises(ConfigError, match="exists already"):
        merge(two, two[1])
    assert verify(two[1]) == []


@pytest.mark.parametrize("times", [1, 2])
def test_one_set_is_nothing_to_merge(tmp_path: Path, two: list[Path], times: int) -> None:
    with pytest.raises(ConfigError, match="two or more different ones"):
        merge(two[:1] * times, tmp_path / "merged")


def test_a_changed_file_is_refused(tmp_path: Path, two: list[Path]) -> None:
    path = two[1] / "shard.parquet"
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path}: sha256 is {sha256_file(path)}"):
        merge(two, tmp_path / "merged")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_the_command_merges_and_says_what(
    tmp_path: Path, two: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", *map(str, two), str(tmp_path / "merged"), "--source", "all"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'merged'}: 2 files, 80 documents\n"
    assert main(["merge", *map(str, two), str(tmp_path / "merged")]) == 2


@pytest.mark.parametrize(
    "name", [DOCUMENTS_FILE, INPUTS_FILE, f"{TOKENIZER_FOLDER}/tokenizer.json"]
)
@pytest.mark.parametrize("harm", ["removed", "cut short", "changed"])
def test_a_set_whose_lists_or_tokenizer_were_changed_is_not_merged(
    tmp_path: Path, two: list[Path], capsys: pytest.CaptureFixture[str], name: str, harm: str
) -> None:
    path = two[0] / name
    content = path.read_bytes()
    path.unlink()
    if harm != "removed":
        path.write_bytes(content[:20] if harm == "cut short" else content + b" ")
    assert main(["merge", *map(str, two), str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith(f"{path}: missing or not the file that the manifest")
    assert not (tmp_path / "out").exists()


def test_the_name_of_the_source_is_one_that_a_config_may_give(
    tmp_path: Path, two: list[Path]
) -> None:
    assert main(["merge", *map(str, two), str(tmp_path / "out"), "--source", "../a"]) == 2


@pytest.mark.parametrize(
    "command",
    ["merge {url} {url}2 OUT", "split {url} OUT --parts a=1,b=1", "convert {url} OUT --to mds"],
)
def test_a_url_where_a_folder_is_needed_is_named_as_it_was_given(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main(command.format(url="https://localhost:1/set").split()) == 2
    assert capsys.readouterr().err.startswith("https://localhost:1/set: not a local folder")
