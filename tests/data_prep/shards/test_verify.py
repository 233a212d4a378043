"""verify() finds every kind of damage and says where."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_prep.files import sha256_file
from data_prep.shards.manifest import Manifest, ShardFile
from data_prep.shards.parquet_file import Footer
from data_prep.shards.parquet_writer import ParquetFileWriter
from data_prep.shards.verify import verify
from tests.data_prep.shards.encoded import encoded_documents

MakeSet = Callable[..., Manifest]


@pytest.mark.parametrize("policy", ["best_fit", "concat"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_good_set_has_no_problems(
    tmp_path: Path, make_set: MakeSet, policy: str, masked: bool
) -> None:
    documents = encoded_documents(90, masked=masked)
    make_set(tmp_path / "set", documents, policy=policy, has_loss_mask=masked)
    assert verify(tmp_path / "set") == []


@pytest.mark.parametrize(
    "name", ["shard.parquet", "documents.parquet", "inputs.parquet", "tokenizer/tokenizer.json"]
)
@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_damaged_file_is_named(tmp_path: Path, make_set: MakeSet, name: str, damage: str) -> None:
    make_set(tmp_path / "set", encoded_documents(30))
    path = tmp_path / "set" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.unlink() if damage == "gone" else path.write_bytes(content)
    problems = verify(tmp_path / "set")
    assert len(problems) == 1
    assert problems[0].startswith(f"{path}: ")


def test_a_set_that_is_no_set_is_a_problem(tmp_path: Path) -> None:
    assert len(verify(tmp_path)) == 1


def test_another_tokenizer_than_the_one_that_encoded_is_found(
    tmp_path: Path, make_set: MakeSet
) -> None:
    make_set(tmp_path / "set", encoded_documents(30), tokenizer_fingerprint="0" * 64)
    assert ["fingerprint" in problem for problem in verify(tmp_path / "set")] == [True]


def rewrite(folder: Path, change: Callable[[pa.Table], pa.Table], **counts: int) -> None:
    """Build the set's shard again with changed rows and hashes that agree with them."""
    manifest = Manifest.read(folder)
    path = folder / manifest.files[0].name
    table = change(pq.read_table(path).cast(manifest.arrow_schema()))
    writer = ParquetFileWriter(
        path, manifest.arrow_schema(), manifest.encodings(), manifest.file_metadata()
    )
    for begin in range(0, table.num_rows, manifest.row_group):
        writer.write(table.slice(begin, manifest.row_group).combine_chunks())
    writer.close()
    footer = Footer(path)
    file = ShardFile(
        name=path.name,
        bytes=footer.file_bytes,
        sha256=sha256_file(path),
        footer_sha256=footer.hash,
        rows=table.num_rows,
    )
    manifest = manifest.model_copy(
        update={"files": [file], "counts": manifest.counts | counts}, deep=True
    )
    fields = json.loads(manifest.model_dump_json())
    Manifest.model_validate(fields).write(folder)


def with_lengths(table: pa.Table, place: int, step: int) -> pa.Table:
    pieces = table["documents"].combine_chunks()
    structs = pieces.flatten()
    lengths = structs.field("length").to_numpy().astype(np.int64)
    lengths[place] += step
    changed = pa.StructArray.from_arrays(
        [structs.field("id"), structs.field("offset"), pa.array(lengths, pa.uint32())],
        fields=list(structs.type),
    )
    lists = pa.ListArray.from_arrays(pieces.offsets, changed, type=pieces.type)
    return table.set_column(1, table.schema.field("documents"), lists)


def test_a_lost_token_is_found(tmp_path: Path, make_set: MakeSet) -> None:
    manifest = make_set(tmp_path / "set", encoded_documents(30))
    counts = manifest.counts
    changed = {"tokens": counts["tokens"] - 1, "padding": counts["padding"] + 1}
    rewrite(tmp_path / "set", lambda table: with_lengths(table, 5, -1), **changed)
    problems = verify(tmp_path / "set")
    assert any("padding is not filled" in p or "not all there" in p for p in problems)
    assert any("lost or doubled" in p or "not all there" in p for p in problems)


def test_counts_that_do_not_hold_are_found(tmp_path: Path, make_set: MakeSet) -> None:
    manifest = make_set(tmp_path / "set", encoded_documents(30))
    tokens = manifest.counts["tokens"]
    rewrite(tmp_path / "set", lambda table: table, tokens=tokens + 1)
    found = f"{tokens} tokens, the manifest says {tokens + 1}"
    assert [found in problem for problem in verify(tmp_path / "set")] == [True]


def test_rows_in_another_order_than_listed_are_found(tmp_path: Path, make_set: MakeSet) -> None:
    make_set(tmp_path / "set", encoded_documents(30))
    rewrite(tmp_path / "set", lambda table: table.take(np.arange(table.num_rows)[::-1].copy()))
    assert ["lists other rows" in problem for problem in verify(tmp_path / "set")] == [True]


def test_an_id_outside_the_vocabulary_is_found(tmp_path: Path, make_set: MakeSet) -> None:
    def raise_first(table: pa.Table) -> pa.Table:
        tokens = table["tokens"].combine_chunks()
        values = pc.list_flatten(tokens).to_numpy().copy()
        values[0] = 300
        lists = pa.ListArray.from_arrays(tokens.offsets, pa.array(values), type=tokens.type)
        return table.set_column(0, table.schema.field("tokens"), lists)

    make_set(tmp_path / "set", encoded_documents(30))
    rewrite(tmp_path / "set", raise_first)
    problems = verify(tmp_path / "set")
    assert ["token id 300 in a vocabulary of 300" in problem for problem in problems] == [True]
