"""verify() finds every kind of damage to files, lists and counts, and says where."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.errors import ConfigError
from data_prep.files import sha256_file
from data_prep.shards.checks.document_sums import add_pieces, empty_sums, hash_ids
from data_prep.shards.manifest import DOCUMENTS_FILE, Manifest
from data_prep.shards.parquet_file import Footer
from data_prep.shards.parquet_writer import ParquetFileWriter
from data_prep.shards.tools import verify as verify_module
from data_prep.shards.tools.verify import verify
from data_prep.shards.writer import EncodedDocument
from tests.data_prep.shards.encoded import encoded_documents
from tests.data_prep.shards.rewritten import (
    BEGIN,
    END,
    Rows,
    documents,
    only_problem,
    rewrite,
)

MakeSet = Callable[..., Manifest]


# --- what is good


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("policy", ["best_fit", "concat"])
def test_a_good_set_has_no_problems(
    tmp_path: Path, make_set: MakeSet, policy: str, workers: int
) -> None:
    make_set(tmp_path / "set", documents(90), policy=policy)
    assert verify(tmp_path / "set", workers) == []


@pytest.mark.parametrize("policy", ["best_fit", "concat"])
def test_begin_tokens_where_the_manifest_says_so_are_no_problem(
    tmp_path: Path, make_set: MakeSet, policy: str
) -> None:
    make_set(
        tmp_path / "set", documents(90, begin=True), policy=policy, begin_token=True, begin_id=BEGIN
    )
    assert verify(tmp_path / "set") == []


def test_conversations_may_hold_special_tokens_anywhere(tmp_path: Path, make_set: MakeSet) -> None:
    conversations = encoded_documents(90, masked=True, vocabulary=300)
    make_set(tmp_path / "set", conversations, has_loss_mask=True)
    assert verify(tmp_path / "set") == []


def test_a_rest_of_nothing_but_the_end_token_is_no_problem(
    tmp_path: Path, make_set: MakeSet
) -> None:
    # 33 tokens in rows of 32; the begin token is the end token, as GPT-2's.
    tokens = np.append(np.arange(32), END)
    make_set(tmp_path / "set", [EncodedDocument("pmid:1", tokens, "words", 1)])
    assert verify(tmp_path / "set") == []


# --- files


@pytest.mark.parametrize(
    "name", ["shard.parquet", "documents.parquet", "inputs.parquet", "tokenizer/tokenizer.json"]
)
@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_damaged_file_is_named(made: Path, name: str, damage: str) -> None:
    path = made / name
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.unlink() if damage == "gone" else path.write_bytes(content)
    assert only_problem(made).startswith(f"/{name}: ")


def test_another_footer_hash_is_found(made: Path) -> None:
    manifest = Manifest.read(made)
    file = manifest.files[0].model_copy(update={"footer_sha256": "0" * 64})
    values = manifest.model_dump(mode="json") | {"files": [file]}
    Manifest.model_validate(values).write(made)
    assert "/shard.parquet: its footer's hash is" in only_problem(made)


def test_a_remote_set_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="data_prep fetch"):
        verify("s3://bucket/set")


def test_every_damaged_file_has_a_line(made: Path) -> None:
    (made / "inputs.parquet").unlink()
    (made / DOCUMENTS_FILE).unlink()
    assert len(verify(made)) == 2


def test_a_set_that_is_no_set_is_a_problem(tmp_path: Path) -> None:
    assert len(verify(tmp_path)) == 1


def test_another_tokenizer_than_the_one_that_encoded_is_found(
    tmp_path: Path, make_set: MakeSet
) -> None:
    make_set(tmp_path / "set", documents(), tokenizer_fingerprint="0" * 64)
    assert "fingerprint" in only_problem(tmp_path / "set")


def test_a_row_group_whose_own_checksum_does_not_hold_is_found(made: Path) -> None:
    manifest = Manifest.read(made)
    groups = -(-manifest.counts["rows"] // manifest.row_group)
    # Changing metadata that the writer adds itself: the same file with other checksums in its footer.
    path = made / "shard.parquet"
    table = pq.read_table(path)
    writer = ParquetFileWriter(
        path, manifest.arrow_schema(), manifest.encodings(), manifest.form.file_metadata()
    )
    for begin in range(0, table.num_rows, manifest.row_group):
        part = table.slice(begin, manifest.row_group).cast(manifest.arrow_schema())
        writer.write(part.combine_chunks())
    writer._checksums[groups - 1] ^= 1
    writer.close()
    footer = Footer(path)
    file = manifest.files[0].model_copy(
        update={
            "bytes": footer.file_bytes,
            "sha256": sha256_file(path),
            "footer_sha256": footer.hash,
        }
    )
    values = manifest.model_dump(mode="json") | {"files": [file]}
    Manifest.model_validate(values).write(made)
    assert f"/shard.parquet: row group {groups - 1}: checksum is" in only_problem(made)


def test_every_row_group_that_is_not_readable_has_a_line(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a file changes after its hash was taken, the row groups say so one by one."""
    taken = verify_module.shard_problem

    def change_after(path: Path, *others: Any) -> str | None:
        problem = taken(path, *others)
        content = bytearray(path.read_bytes())
        content[10] ^= 1
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        return problem

    monkeypatch.setattr(verify_module, "shard_problem", change_after)
    problems = verify(made)
    assert len(problems) == 2
    assert all("checksum is" in problem for problem in problems)


def test_metadata_of_another_format_is_found(made: Path) -> None:
    rewrite(made, metadata={"sequence_length": "64"})
    assert "sequence_length in its metadata is 64, the manifest says 32" in only_problem(made)


def test_row_groups_of_other_sizes_are_found(made: Path) -> None:
    rows = Manifest.read(made).counts["rows"]
    rewrite(made, group_sizes=[8, 7, rows - 15])
    assert "row group" in only_problem(made)


def test_a_manifest_with_other_row_numbers_than_its_file_is_found(made: Path) -> None:
    manifest = Manifest.read(made)
    file = manifest.files[0].model_copy(update={"rows": manifest.files[0].rows + 1})
    values = manifest.model_dump(mode="json") | {"files": [file]}
    Manifest.model_validate(values).write(made)
    assert only_problem(made).startswith("/shard.parquet: ")


@pytest.mark.parametrize("policy", ["best_fit", "per_document"])
def test_a_list_of_other_columns_is_found(tmp_path: Path, make_set: MakeSet, policy: str) -> None:
    make_set(tmp_path / "set", documents(), policy=policy)
    path = tmp_path / "set" / DOCUMENTS_FILE
    pq.write_table(pq.read_table(path).drop_columns(["rows"]), path)
    manifest = Manifest.read(tmp_path / "set")
    values = manifest.model_dump(mode="json") | {"documents_sha256": sha256_file(path)}
    Manifest.model_validate(values).write(tmp_path / "set")
    assert "documents.parquet: its columns are not" in only_problem(tmp_path / "set")


# --- the list and the counts


def swap(lines: Rows, place: int) -> None:
    lines[place], lines[place + 1] = lines[place + 1], lines[place]


@pytest.mark.parametrize("place", [0, 3, 6])  # the list is in row groups of 7: the last is a seam
def test_a_list_that_is_not_sorted_is_found(made: Path, place: int) -> None:
    rewrite(made, relist=lambda lines: swap(lines, place))
    assert "not sorted by id" in only_problem(made)


def test_an_id_that_is_listed_twice_is_found(made: Path) -> None:
    rewrite(made, relist=lambda lines: lines.insert(1, lines[0]))
    assert "is listed twice" in only_problem(made)


@pytest.mark.parametrize(
    "name",
    [
        "documents",
        "rows",
        "tokens",
        "padding",
        "cuts",
        "trained_tokens",
        "bytes",
        "document_tokens",
        "cut_documents",
    ],
)
def test_counts_that_do_not_hold_are_found(made: Path, name: str) -> None:
    counts = Manifest.read(made).counts
    rewrite(made, counts=counts | {name: counts[name] + 1})
    found = f": {counts[name]} {name}, the manifest says {counts[name] + 1}"
    assert found in only_problem(made)


@pytest.mark.parametrize("name", ["padding", "cuts", "cut_documents"])
def test_counts_of_what_is_not_there_at_all_are_found(
    tmp_path: Path, make_set: MakeSet, name: str
) -> None:
    full = [EncodedDocument(str(n), np.full(32, END), "words", 9) for n in range(3)]
    make_set(tmp_path / "set", full)
    counts = Manifest.read(tmp_path / "set").counts
    rewrite(tmp_path / "set", counts=counts | {name: 1})
    assert f": 0 {name}, the manifest says 1" in only_problem(tmp_path / "set")


def test_of_many_problems_the_first_are_shown(made: Path) -> None:
    def spoil(rows: Rows) -> None:
        for row in rows:
            row["documents"][0]["offset"] += 1

    rewrite(made, spoil)
    assert 1 <= len(verify(made)) <= 21


# --- the arithmetic, and a command that is stopped


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 4), st.integers(1, 4)),
        min_size=1,
        max_size=6,
    )
)
def test_sums_agree_exactly_where_every_token_is_there_once(
    pieces: list[tuple[str, int, int]],
) -> None:
    ends = {
        name: max((offset + length for one, offset, length in pieces if one == name), default=0)
        for name in "ab"
    }
    covered = {
        name: sorted(
            place
            for one, offset, length in pieces
            if one == name
            for place in range(offset, offset + length)
        )
        for name in "ab"
    }
    whole = all(covered[name] == list(range(ends[name])) for name in "ab")
    sums, listed = empty_sums(), empty_sums()
    ids, offsets, lengths = zip(*pieces, strict=True)
    begins = np.array(offsets)
    add_pieces(sums, hash_ids(ids), begins, begins + np.array(lengths))
    names = list("ab")
    add_pieces(listed, hash_ids(names), np.zeros(2, int), np.array([ends[name] for name in names]))
    assert np.array_equal(sums, listed) == whole


def test_ctrl_c_ends_the_command_and_its_processes(tmp_path: Path, make_set: MakeSet) -> None:
    make_set(tmp_path / "set", documents(2000))
    command = [sys.executable, "-m", "data_prep", "verify", *[str(tmp_path / "set")] * 50]
    with subprocess.Popen(
        [*command, "--workers", "2"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()  # the first set is done, others are at work
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)  # that no process stays, the module's own fixture checks
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told
