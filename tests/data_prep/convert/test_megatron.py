"""Shard sets as Megatron's indexed datasets, and back; the format is written out here a second time."""

import struct
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_prep.__main__ import main
from data_prep.convert import indexed_dataset
from data_prep.shards.manifest import Manifest
from data_prep.shards.tools.verify import verify
from data_prep.tokenizer.encode import load_encoder
from tests.data_prep.convert.texts import END, refused, texts
from tests.data_prep.shards.encoded import rebuilt

MakeSet = Callable[..., Manifest]
# As megatron.core.datasets.indexed_dataset.DType numbers them.
CODES = {"uint8": 1, "int16": 3, "int32": 4, "int64": 5, "uint16": 8}


def read(prefix: Path) -> list[list[int]]:
    """The documents, sequence by sequence through their pointers."""
    index = prefix.with_suffix(".idx").read_bytes()
    magic, version, code, sequences, boundaries = struct.unpack_from("<9sQBQQ", index)
    assert (magic, version) == (b"MMIDIDX\0\0", 1)
    kind = {number: name for name, number in CODES.items()}[code]
    lengths = np.frombuffer(index, "<i4", sequences, 34)
    pointers = np.frombuffer(index, "<i8", sequences, 34 + 4 * sequences)
    documents = np.frombuffer(index, "<i8", boundaries, 34 + 12 * sequences)
    assert len(index) == 34 + 12 * sequences + 8 * boundaries
    content = prefix.with_suffix(".bin").read_bytes()
    assert len(content) == lengths.sum() * np.dtype(kind).itemsize
    parts = [
        np.frombuffer(content, kind, length, pointer).tolist()
        for length, pointer in zip(lengths, pointers, strict=True)
    ]
    return [
        [token for part in parts[begin:end] for token in part] for begin, end in pairwise(documents)
    ]


def write(prefix: Path, documents: Sequence[Sequence[Sequence[int]]], kind: str = "int32") -> None:
    """Documents as lists of sequences, as IndexedDatasetBuilder writes them."""
    sequences = [sequence for document in documents for sequence in document]
    lengths = np.array([len(sequence) for sequence in sequences], "<i4")
    sizes = lengths.astype("<i8") * np.dtype(kind).itemsize
    boundaries = np.cumsum([0, *(len(document) for document in documents)], dtype="<i8")
    header = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, CODES[kind], len(sequences), len(boundaries))
    pointers = (np.cumsum(sizes) - sizes).astype("<i8")
    index = header + lengths.tobytes() + pointers.tobytes() + boundaries.tobytes()
    prefix.with_suffix(".idx").write_bytes(index)
    flat = [token for sequence in sequences for token in sequence]
    prefix.with_suffix(".bin").write_bytes(np.array(flat, kind).tobytes())


@pytest.mark.parametrize(("vocabulary", "code"), [(300, 8), (65_536, 8), (65_537, 4)])
def test_each_document_is_a_sequence_with_its_tokens_as_they_stand(
    make_set: MakeSet, tmp_path: Path, vocabulary: int, code: int
) -> None:
    documents = texts(150, longest=90)
    make_set(tmp_path / "set", documents, vocabulary_size=vocabulary)
    assert main(["convert", str(tmp_path / "set"), str(tmp_path / "out"), "--to", "megatron"]) == 0
    prefix = tmp_path / "out" / "words-train"
    assert prefix.with_suffix(".idx").read_bytes()[17] == code
    listed = pd.read_parquet(f"{prefix}.documents.parquet")
    found = dict(zip(listed["id"], read(prefix), strict=True))
    assert found == {document.id: document.tokens.tolist() for document in documents}
    assert listed["licence"].eq("cc0").all()


@pytest.mark.parametrize("policy", ["best_fit", "concat"])
def test_there_and_back_gives_the_same_documents(
    make_set: MakeSet, tokenizer: Path, tmp_path: Path, policy: str
) -> None:
    place, out, back = (tmp_path / name for name in ("set", "out", "back"))
    origin = make_set(place, texts(200, longest=90), window=4096, policy=policy)
    assert main(["convert", str(place), str(out), "--to", "megatron"]) == 0
    words = ["convert", str(out), str(back), "--from", "megatron", "--tokenizer", str(tokenizer)]
    assert main(words) == 0
    assert verify(back) == []
    assert rebuilt([back / "shard.parquet"]) == rebuilt([place / "shard.parquet"])
    drop = ["rows"]  # which best fit chooses anew
    one, two = (pd.read_parquet(folder / "documents.parquet") for folder in (place, back))
    pd.testing.assert_frame_equal(one.drop(columns=drop), two.drop(columns=drop))
    manifest = Manifest.read(back)
    assert (manifest.source, manifest.split) == (origin.source, origin.split)
    if policy == "concat":  # documents lie in their old order, so that not a byte differs
        assert manifest.files == origin.files


def test_a_dataset_from_elsewhere_gets_ids_and_ends_and_the_packing_asked_for(
    tokenizer: Path, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    parts = [[random.integers(0, END, random.integers(1, 40)).tolist() for _ in range(n % 3 + 1)]
             for n in range(60)]  # fmt: skip
    for number, document in enumerate(parts):
        if number % 2:
            document[-1].append(END)
    parts[10], parts[20] = [[]], [[END]]  # nothing in them
    parts[30] = [[1, 2, END, 3, END]]  # two documents in one
    write(tmp_path / "foreign", parts)
    back = tmp_path / "back"
    options = ["--tokenizer", tokenizer, "--source", "web", "--split", "validation"]
    pack = ["--policy", "concat", "--sequence_length", "48", "--row_group", "64"]
    words = ["convert", tmp_path / "foreign.idx", back, "--from", "megatron", *options, *pack]
    assert main([str(word) for word in words]) == 0
    assert verify(back) == []
    flat = [[token for sequence in document for token in sequence] for document in parts]
    flat[30:31] = [[1, 2, END], [3, END]]
    expected = {
        f"megatron:foreign#{number}": document if document[-1] == END else [*document, END]
        for number, document in enumerate(flat)
        if document not in ([], [END])
    }
    assert rebuilt([back / "shard.parquet"]) == expected
    manifest = Manifest.read(back)
    assert (manifest.source, manifest.split) == ("web", "validation")
    assert (manifest.policy, manifest.sequence_length, manifest.row_group) == ("concat", 48, 64)
    assert sorted(pd.read_parquet(back / "inputs.parquet")["name"]) == [
        "foreign.bin",
        "foreign.idx",
    ]


def test_bytes_are_those_of_the_text_that_the_tokens_spell(tokenizer: Path, tmp_path: Path) -> None:
    written = ["acute renal failure", "12.5% é 高血压", "x"]
    encoder = load_encoder(tokenizer)
    write(tmp_path / "texts", [[[*ids.tolist(), END]] for ids in encoder.encode(written)], "uint16")
    words = ["convert", tmp_path / "texts", tmp_path / "back", "--from", "megatron"]
    words += ["--tokenizer", tokenizer, "--source", "web"]
    assert main([str(word) for word in words]) == 0
    listed = pd.read_parquet(tmp_path / "back" / "documents.parquet")
    assert listed["bytes"].tolist() == [len(text.encode()) for text in written]


def test_bytes_as_tokens_get_an_end_token_that_is_no_byte(tokenizer: Path, tmp_path: Path) -> None:
    write(tmp_path / "foreign", [[[1, 2]], [[255]]], "uint8")
    words = ["convert", tmp_path / "foreign", tmp_path / "back", "--from", "megatron"]
    words += ["--tokenizer", tokenizer, "--source", "web"]
    assert main([str(word) for word in words]) == 0
    found = rebuilt([tmp_path / "back" / "shard.parquet"])
    assert list(found.values()) == [[1, 2, END], [255, END]]


def test_reading_in_small_parts_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [[[n] * (n % 5)] for n in range(100)]
    write(tmp_path / "small", parts, "int64")
    monkeypatch.setattr(indexed_dataset, "TOGETHER", 7)
    monkeypatch.setattr(indexed_dataset, "TOGETHER_TOKENS", 9)
    found = [
        tokens[begin:end].tolist()
        for tokens, starts in indexed_dataset.IndexedDataset(tmp_path / "small").read()
        for begin, end in pairwise(starts)
    ]
    assert found == [document[0] for document in parts]


def test_a_set_with_a_loss_mask_is_refused(
    make_set: MakeSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_set(tmp_path / "set", texts(20, masked=True), has_loss_mask=True)
    words = ["convert", tmp_path / "set", tmp_path / "out", "--to", "megatron"]
    assert "use --to mds" in refused(capsys, words, 2)
    assert not (tmp_path / "out").exists()


def cut_idx(prefix: Path) -> None:
    content = prefix.with_suffix(".idx").read_bytes()
    prefix.with_suffix(".idx").write_bytes(content[:-3])


def cut_header(prefix: Path) -> None:
    prefix.with_suffix(".idx").write_bytes(b"MMIDIDX\0\0\1")


def other_magic(prefix: Path) -> None:
    content = prefix.with_suffix(".idx").read_bytes()
    prefix.with_suffix(".idx").write_bytes(b"TNTIDX\0\0" + content[8:])


def cut_bin(prefix: Path) -> None:
    content = prefix.with_suffix(".bin").read_bytes()
    prefix.with_suffix(".bin").write_bytes(content[:-4])


def no_bin(prefix: Path) -> None:
    prefix.with_suffix(".bin").unlink()


def floats(prefix: Path) -> None:
    content = bytearray(prefix.with_suffix(".idx").read_bytes())
    content[17] = 6
    prefix.with_suffix(".idx").write_bytes(bytes(content))


def pointers_in_disorder(prefix: Path) -> None:
    content = bytearray(prefix.with_suffix(".idx").read_bytes())
    struct.pack_into("<q", content, 34 + 3 * 4 + 8, 0)  # of the second of three sequences
    prefix.with_suffix(".idx").write_bytes(bytes(content))


def other_list(prefix: Path) -> None:
    prefix.with_name("foreign.documents.parquet").write_bytes(b"PAR1")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (cut_idx, r"foreign.idx: has 99 bytes, its header says 102"),
        (cut_header, "foreign.idx: ends within its header"),
        (other_magic, "foreign.idx: begins with b'TNTIDX"),
        (cut_bin, "foreign.bin: has 20 bytes, its index says 24"),
        (no_bin, "foreign.bin: missing"),
        (floats, "foreign.idx: version 1 with type code 6"),
        (pointers_in_disorder, "do not lie one after the other"),
        (other_list, "foreign.documents.parquet: missing, or not the list"),
    ],
)
def test_broken_input_is_one_line_and_leaves_nothing(
    tokenizer: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    harm: Callable[[Path], None],
    message: str,
) -> None:
    place = tmp_path / "in"
    place.mkdir()
    write(place / "foreign", [[[1, END]], [[2, END]], [[3, END]]])
    harm(place / "foreign")
    words = ["convert", place, tmp_path / "back", "--from", "megatron", "--tokenizer", tokenizer]
    assert message in refused(capsys, [*words, "--source", "web"], 1)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("token", [300, -1])
def test_a_token_beyond_the_vocabulary_is_named(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], token: int
) -> None:
    write(tmp_path / "foreign", [[[1, END]], [[2, token, END]]])
    words = ["convert", tmp_path / "foreign", tmp_path / "back", "--from", "megatron"]
    words += ["--tokenizer", tokenizer, "--source", "web"]
    error = refused(capsys, words, 1)
    assert f"megatron:foreign: token id {token}" in error
    assert "300 ids" in error


def test_another_tokenizer_than_the_sets_is_refused(
    make_set: MakeSet, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_set(tmp_path / "set", texts(20), tokenizer_fingerprint="0" * 64)
    assert main(["convert", str(tmp_path / "set"), str(tmp_path / "out"), "--to", "megatron"]) == 0
    capsys.readouterr()
    words = ["convert", tmp_path / "out", tmp_path / "back", "--from", "megatron"]
    assert "its fingerprint is" in refused(capsys, [*words, "--tokenizer", tokenizer], 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "expected one of --to"),
        (["--to", "mds", "--from", "mds"], "expected one of --to"),
        (["--to", "webdataset"], "to: Input should be"),
        (["--from", "megatron"], "tokenizer: missing"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert message in refused(capsys, ["convert", tmp_path / "in", tmp_path / "out", *options], 2)
