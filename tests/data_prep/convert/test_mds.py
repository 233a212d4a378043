"""Shard sets as MosaicML's MDS, and back; the format is written out here a second time."""

import bz2
import gzip
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zstandard

from data_prep.__main__ import main
from data_prep.convert import mds_files
from data_prep.shards.manifest import Manifest
from data_prep.shards.tools.merge import merge
from data_prep.shards.tools.verify import verify
from tests.data_prep.convert.texts import END, refused, texts
from tests.data_prep.shards.encoded import rebuilt
from tests.data_prep.shards.rewritten import rewrite

MakeSet = Callable[..., Manifest]
COMPRESS = {
    "zstd:5": lambda content: zstandard.ZstdCompressor(5).compress(content),
    "gz": gzip.compress,
    "bz2:1": bz2.compress,
}


def read(folder: Path) -> list[dict[str, bytes]]:
    """The samples' columns as they are encoded, as MDSReader finds them."""
    samples = []
    for shard in json.loads((folder / "index.json").read_text())["shards"]:
        content = (folder / shard["raw_data"]["basename"]).read_bytes()
        assert len(content) == shard["raw_data"]["bytes"]
        assert hashlib.sha256(content).hexdigest() == shard["raw_data"]["hashes"]["sha256"]
        assert shard["column_names"] == sorted(shard["column_names"])
        count = int.from_bytes(content[:4], "little")
        assert count == shard["samples"]
        for number in range(count):
            begin, end = np.frombuffer(content, np.uint32, 2, 4 + 4 * number).tolist()
            sample, place, lengths = content[begin:end], 0, []
            for size in shard["column_sizes"]:
                if size is None:
                    lengths.append(int.from_bytes(sample[place : place + 4], "little"))
                    place += 4
                else:
                    lengths.append(size)
            found = {}
            for name, length in zip(shard["column_names"], lengths, strict=True):
                found[name] = sample[place : place + length]
                place += length
            assert place == len(sample)
            samples.append(found)
    return samples


def write(
    folder: Path,
    columns: dict[str, str],
    samples: Sequence[dict[str, bytes]],
    compression: str | None = None,
    per_shard: int = 7,
) -> None:
    """Samples of columns of varying size, as MDSWriter writes them."""
    folder.mkdir()
    names, shards = sorted(columns), []
    for begin in range(0, len(samples), per_shard):
        encoded = []
        for sample in samples[begin : begin + per_shard]:
            sizes = np.array([len(sample[name]) for name in names], np.uint32)
            encoded.append(sizes.tobytes() + b"".join(sample[name] for name in names))
        head = 4 + 4 * (len(encoded) + 1)
        offsets = head + np.cumsum([0, *map(len, encoded)])
        content = b"".join([np.array([len(encoded), *offsets], np.uint32).tobytes(), *encoded])
        name = f"shard.{len(shards):05}.mds"
        about = {"basename": name, "bytes": len(content), "hashes": {"xxh64": "unknown to us"}}
        shard = {
            "version": 2,
            "format": "mds",
            "compression": compression,
            "hashes": ["xxh64"],
            "size_limit": None,
            "column_names": names,
            "column_encodings": [columns[column] for column in names],
            "column_sizes": [None] * len(names),
            "samples": len(encoded),
            "raw_data": about,
            "zip_data": None,
        }
        if compression:
            content = COMPRESS[compression](content)
            name = f"{name}.{compression.partition(':')[0]}"
            hashes = {"sha1": hashlib.sha1(content).hexdigest()}
            shard["zip_data"] = {"basename": name, "bytes": len(content), "hashes": hashes}
        (folder / name).write_bytes(content)
        shards.append(shard)
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": shards}))


def array(values: np.ndarray, typed: bool = False) -> bytes:
    """An `ndarray:TYPE` (or, typed, `ndarray`) of one axis, as streaming's NDArray encodes it."""
    numbers = {"uint16": 16, "int32": 33, "int64": 65, "float32": 34}
    length = np.array([len(values)], "<u2").tobytes()
    return (
        (bytes([numbers[values.dtype.name]]) if typed else b"")
        + b"\x05"
        + length
        + values.tobytes()
    )


@pytest.mark.parametrize("masked", [False, True])
def test_a_row_is_a_sample_that_says_which_documents_are_in_it(
    make_set: MakeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, masked: bool
) -> None:
    monkeypatch.setattr(mds_files, "SHARD_BYTES", 5000)
    make_set(tmp_path / "set", texts(150, longest=90, masked=masked), has_loss_mask=masked)
    assert main(["convert", str(tmp_path / "set"), str(tmp_path / "out"), "--to", "mds"]) == 0
    rows = pd.read_parquet(tmp_path / "set" / "shard.parquet")
    samples = read(tmp_path / "out")
    assert len(list((tmp_path / "out").glob("shard.*.mds"))) > 2
    assert len(samples) == len(rows)
    for sample, (_, row) in zip(samples, rows.iterrows(), strict=True):
        assert np.frombuffer(sample["tokens"], np.uint16).tolist() == row["tokens"].tolist()
        assert json.loads(sample["documents"]) == {
            "ids": [piece["id"] for piece in row["documents"]],
            "offsets": [piece["offset"] for piece in row["documents"]],
            "lengths": [piece["length"] for piece in row["documents"]],
        }
        if masked:
            assert (
                np.frombuffer(sample["loss_mask"], np.uint8).tolist() == row["loss_mask"].tolist()
            )
    shard = json.loads((tmp_path / "out" / "index.json").read_text())["shards"][0]
    encodings = dict(zip(shard["column_names"], shard["column_encodings"], strict=True))
    assert encodings["tokens"] == "ndarray:uint16:32"


@pytest.mark.parametrize("policy", ["best_fit", "concat"])
@pytest.mark.parametrize("masked", [False, True])
def test_there_and_back_gives_the_same_bytes(
    make_set: MakeSet, tokenizer: Path, tmp_path: Path, policy: str, masked: bool
) -> None:
    place, out, back = (tmp_path / name for name in ("set", "out", "back"))
    documents = texts(150, longest=90, masked=masked)
    origin = make_set(place, documents, policy=policy, has_loss_mask=masked)
    assert main(["convert", str(place), str(out), "--to", "mds"]) == 0
    words = ["convert", str(out), str(back), "--from", "mds", "--tokenizer", str(tokenizer)]
    assert main(words) == 0
    assert verify(back) == []
    manifest = Manifest.read(back)
    inputs = {"inputs_sha256": manifest.inputs_sha256}
    assert manifest.model_dump() == origin.model_dump() | inputs


def test_a_set_of_several_files_comes_back_with_the_same_rows(
    make_set: MakeSet, tokenizer: Path, tmp_path: Path
) -> None:
    documents = texts(120)
    make_set(tmp_path / "a", documents[:50])
    make_set(tmp_path / "b", documents[50:])
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    words = [str(tmp_path / "both"), str(tmp_path / "out"), "--to", "mds"]
    assert main(["convert", *words]) == 0
    words = [str(tmp_path / "out"), str(tmp_path / "back"), "--from", "mds"]
    assert main(["convert", *words, "--tokenizer", str(tokenizer)]) == 0
    assert verify(tmp_path / "back") == []
    files = sorted((tmp_path / "both").glob("00*.parquet"))
    expected = pd.concat(map(pd.read_parquet, files), ignore_index=True)
    found = pd.read_parquet(tmp_path / "back" / "shard.parquet")
    for column in ("tokens", "documents"):
        assert [list(row) for row in found[column]] == [list(row) for row in expected[column]]


@pytest.mark.parametrize("compression", [None, *COMPRESS])
@pytest.mark.parametrize(
    ("encoding", "kind"),
    [
        ("ndarray:int32", "int32"),
        ("ndarray:uint64", "uint64"),
        ("ndarray", "uint16"),
        ("bytes", "int64"),
    ],
)
def test_packed_rows_from_elsewhere_are_cut_at_their_end_tokens(
    tokenizer: Path, tmp_path: Path, compression: str | None, encoding: str, kind: str
) -> None:
    documents = [document.tokens.tolist() for document in texts(80, longest=70)]
    flat = np.array([token for document in documents for token in document], kind)
    flat = flat[: len(flat) // 16 * 16]  # as LLM Foundry leaves out what fills no row
    encode = {"bytes": lambda row: row.tobytes(), "ndarray": lambda row: array(row, typed=True)}
    encoded = encode.get(encoding, array)
    samples = [{"tokens": encoded(row)} for row in flat.reshape(-1, 16)]
    write(tmp_path / "c4", {"tokens": encoding}, samples, compression)
    words = [str(tmp_path / "c4"), str(tmp_path / "back"), "--from", "mds", "--source", "web"]
    words += ["--tokenizer", str(tokenizer), "--sequence_length", "24"]
    assert main(["convert", *words]) == 0
    assert verify(tmp_path / "back") == []
    found = rebuilt([tmp_path / "back" / "shard.parquet"])
    joined = [token for number in range(len(found)) for token in found[f"mds:c4#{number}"]]
    assert joined[: len(flat)] == flat.tolist()
    assert joined[len(flat) :] in ([], [END])  # the last document may have been cut
    assert list(found.values())  # and each is as it was, but the last
    ordered = [found[f"mds:c4#{number}"] for number in range(len(found))]
    assert ordered[:-1] == documents[: len(found) - 1]


@pytest.mark.parametrize("other", ["mds", "megatron"])
def test_documents_that_were_left_out_stay_counted(
    make_set: MakeSet, tokenizer: Path, tmp_path: Path, other: str
) -> None:
    make_set(tmp_path / "set", texts(40))
    counts = Manifest.read(tmp_path / "set").counts
    rewrite(tmp_path / "set", counts=counts | {"too_short": 5})
    out, back = str(tmp_path / "out"), str(tmp_path / "back")
    assert main(["convert", str(tmp_path / "set"), out, "--to", other]) == 0
    assert main(["convert", out, back, "--from", other, "--tokenizer", str(tokenizer)]) == 0
    assert Manifest.read(tmp_path / "back").counts["too_short"] == 5


def test_text_is_sent_to_where_text_is_read(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "c4", {"text": "str"}, [{"text": b"The rate"}])
    words = ["convert", tmp_path / "c4", tmp_path / "back", "--from", "mds"]
    words += ["--tokenizer", tokenizer, "--source", "web"]
    assert "source of `format: text`" in refused(capsys, words, 1)


def test_rows_that_say_their_documents_are_not_packed_anew(
    make_set: MakeSet, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_set(tmp_path / "set", texts(20))
    assert main(["convert", str(tmp_path / "set"), str(tmp_path / "out"), "--to", "mds"]) == 0
    capsys.readouterr()
    words = ["convert", tmp_path / "out", tmp_path / "back", "--from", "mds"]
    words += ["--tokenizer", tokenizer, "--window", 5]
    assert "leave out --window" in refused(capsys, words, 2)


def rewrite_index(folder: Path, change: Callable[[dict], object]) -> None:
    index = json.loads((folder / "index.json").read_text())
    change(index)
    (folder / "index.json").write_text(json.dumps(index))


def no_shard(folder: Path) -> None:
    (folder / "shard.00000.mds").unlink()


def cut_shard(folder: Path) -> None:
    path = folder / "shard.00000.mds"
    path.write_bytes(path.read_bytes()[:-1])


def changed_shard(folder: Path) -> None:
    content = bytearray((folder / "shard.00000.mds").read_bytes())
    content[-1] ^= 1
    (folder / "shard.00000.mds").write_bytes(content)


def no_index(folder: Path) -> None:
    (folder / "index.json").unlink()


def broken_index(folder: Path) -> None:
    (folder / "index.json").write_text("{")


def other_index(folder: Path) -> None:
    (folder / "index.json").write_text("[]")


def other_version(folder: Path) -> None:
    rewrite_index(folder, lambda index: index["shards"][0].update(version=1))


def no_list(folder: Path) -> None:
    (folder / "documents.parquet").unlink()


def unknown_compression(folder: Path) -> None:
    def change(index: dict) -> None:
        shard = index["shards"][0]
        shard["compression"] = "br"
        shard["zip_data"] = shard["raw_data"]
        shard["raw_data"] = shard["raw_data"] | {"basename": "shard.00000"}

    rewrite_index(folder, change)


def first_shard_only(folder: Path) -> None:
    rewrite_index(folder, lambda index: index["shards"].pop())


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (no_shard, "shard.00000.mds: missing, but index.json names it"),
        (cut_shard, "shard.00000.mds: it has"),
        (changed_shard, "shard.00000.mds: its sha256 is"),
        (no_index, "index.json: cannot read"),
        (broken_index, "index.json: not readable as JSON"),
        (other_index, "index.json: not the index of an MDS dataset"),
        (other_version, "version 2, found others"),
        (no_list, "documents.parquet: missing, or not the list"),
        (unknown_compression, "compressed with br; read are zstd, gz, bz2"),
        (first_shard_only, "its rows are not those of its documents.parquet"),
    ],
)
def test_broken_input_is_one_line_and_leaves_nothing(
    make_set: MakeSet,
    tokenizer: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path], None],
    message: str,
) -> None:
    monkeypatch.setattr(mds_files, "SHARD_BYTES", 1500)
    make_set(tmp_path / "set", texts(40))
    assert main(["convert", str(tmp_path / "set"), str(tmp_path / "out"), "--to", "mds"]) == 0
    capsys.readouterr()
    harm(tmp_path / "out")
    words = ["convert", tmp_path / "out", tmp_path / "back", "--from", "mds"]
    assert message in refused(capsys, [*words, "--tokenizer", tokenizer], 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "set"]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (array(np.array([1, 300, END], np.int32)), "mds:c4: token id 300"),
        (b"", "tokens of the encoding ndarray:int32 are not understood"),
        (b"\x05\x03\x00" + b"\x01" * 8, "tokens of the encoding ndarray:int32 are not understood"),
    ],
)
def test_tokens_that_cannot_be_are_named(
    tokenizer: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    samples: bytes,
    message: str,
) -> None:
    write(tmp_path / "c4", {"tokens": "ndarray:int32"}, [{"tokens": samples}])
    words = ["convert", tmp_path / "c4", tmp_path / "back", "--from", "mds"]
    words += ["--tokenizer", tokenizer, "--source", "web"]
    assert message in refused(capsys, words, 1)


def test_windows_of_documents_are_refused(
    make_set: MakeSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_set(tmp_path / "set", texts(20), policy="per_document", epochs=2)
    words = ["convert", tmp_path / "set", tmp_path / "out", "--to", "mds"]
    assert "policy per_document" in refused(capsys, words, 2)


@pytest.mark.parametrize("key", ["samples", "column_sizes", "raw_data"])
def test_an_index_that_leaves_out_what_reading_needs_is_one_line(
    make_set: MakeSet,
    tokenizer: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    key: str,
) -> None:
    make_set(tmp_path / "set", texts(20))
    assert main(["convert", str(tmp_path / "set"), str(tmp_path / "out"), "--to", "mds"]) == 0
    capsys.readouterr()
    rewrite_index(tmp_path / "out", lambda index: index["shards"][0].pop(key))
    words = ["convert", tmp_path / "out", tmp_path / "back", "--from", "mds"]
    told = refused(capsys, [*words, "--tokenizer", tokenizer], 1)
    assert "index.json: not the index of an MDS dataset" in told
