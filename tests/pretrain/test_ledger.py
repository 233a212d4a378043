"""What changes a run's order on purpose: phases to come, and row groups that cannot be read."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_prep.errors import DataError
from pretrain.ledger import (
    BadRowGroup,
    PhaseEntry,
    SkipEntry,
    read_ledger,
    write_ledger,
)
from pretrain.tracing.trace import Trace
from tests import runs, tiny
from tests.pretrain.conftest import PHASES
from tests.runs import copy_up_to


def test_a_ledger_reads_as_it_was_written_in_order_of_steps(tmp_path):
    entries = [
        PhaseEntry(0, {"a": 2}, 5),
        BadRowGroup(3, "a", 7, "its checksum is wrong"),
        SkipEntry(9, 4, "the loss was 11"),
        PhaseEntry(9, None, 8),
    ]
    write_ledger(tmp_path, entries)
    assert read_ledger(tmp_path) == entries
    with (tmp_path / "ledger.jsonl").open("a") as stream:
        stream.write('{"event": "skip", "step": 1, "count": 2}\n')
    with pytest.raises(Exception, match=r"ledger.jsonl: line 5: not an entry of a ledger"):
        read_ledger(tmp_path)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"event": "skip", "step": "5", "steps": 2, "reason": "loss"}', "step: "),
        ('{"event": "skip", "step": 5, "steps": 2}', "reason: Field required"),
        ('{"event": "phase", "step": 5, "weights": {"a": 0.5}}', "weights.a: "),
        ('{"event": "phase", "step": 5, "batch": 8}', "batch: "),
        ('{"event": "skp", "step": 5}', "unknown event 'skp'"),
        ("[1]", ""),
        ('"skip"', ""),
    ],
)
def test_a_line_that_a_person_got_wrong_is_named(line, complaint, tmp_path):
    (tmp_path / "ledger.jsonl").write_text(f"{line}\n")
    with pytest.raises(DataError) as refused:
        read_ledger(tmp_path)
    message = str(refused.value)
    assert f"ledger.jsonl: line 1: not an entry of a ledger ({complaint}" in message
    assert "\n" not in message


def ledger_lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]


def test_the_ledger_of_a_run_says_how_it_began_and_changed(uninterrupted):
    begin, *phases = ledger_lines(uninterrupted)
    assert begin == {"event": "phase", "step": 0, "weights": {"a": 2, "b": 1}, "global_batch": 5}
    assert [(phase["step"], phase["weights"], phase["global_batch"]) for phase in phases] == [
        (phase["from_step"], phase.get("weights"), phase.get("global_batch")) for phase in PHASES
    ]


def test_epochs_are_counted_by_source(uninterrupted, sets):
    lines = [
        json.loads(line) for line in (uninterrupted / "metrics.jsonl").read_text().splitlines()
    ]
    steps = [line for line in lines if "epochs" in line]
    for name, folder in sets.items():
        rows = sum(pq.read_metadata(path).num_rows for path in folder.glob("shard*.parquet"))
        read = 0
        for line in steps:
            read += line["rows"][name]
            assert line["epochs"][name] == pytest.approx(read / rows)
    assert [sum(line["rows"].values()) for line in steps] == [5] * 14 + [7] * 10


def assert_trace_tells_what_metrics_tell(run: Path) -> None:
    """Rows and epochs of every step, and whether documents are seen where they stand."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trace = Trace(run)
    seen: dict[tuple[str, str], set[int]] = {}
    for line in lines:
        if "rows" not in line:
            continue
        rows = trace.step(line["step"])
        read = [row for row in rows if row.left_out is None]
        assert Counter(row.source for row in read) == Counter(line["rows"])
        assert all(row.epoch < line["epochs"][row.source] for row in rows)
        for row in read:
            for piece in row.documents:
                seen.setdefault((row.source, piece.id), set()).add(line["step"])
    for source, document in list(seen)[::20]:
        parts = [part for part in trace.document(document) if part.source == source]
        turns = {turn.step for part in parts for turn in part.seen}
        assert turns == seen[source, document]
        assert not any(part.to_come for part in parts)


def test_the_trace_of_a_run_tells_what_its_metrics_tell(uninterrupted):
    assert_trace_tells_what_metrics_tell(uninterrupted)


@pytest.mark.long
def test_what_is_to_come_may_change_and_what_was_may_not(uninterrupted, values, tmp_path):
    run = copy_up_to(uninterrupted, tmp_path / "run", 10)
    later = [PHASES[0], {"from_step": 12, "weights": {"b": 1}}]
    config = tiny.write_config(tmp_path / "run.yaml", values(run, phases=later, training__steps=24))
    ended = tiny.launch(config)
    assert ended.returncode == 0, ended.stderr[-3000:]
    before, after = tiny.losses(uninterrupted), tiny.losses(run)
    assert [after[step] for step in range(1, 13)] == [before[step] for step in range(1, 13)]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(
        line["rows"] == {"a": 0, "b": 5} for line in lines if line.get("rows") and line["step"] > 12
    )

    changed = copy_up_to(uninterrupted, tmp_path / "changed", 10)
    past = [{"from_step": 7, "weights": {"a": 1, "b": 1}}, PHASES[1]]
    config = tiny.write_config(tmp_path / "changed.yaml", values(changed, phases=past))
    refused = tiny.run_alone(config)
    assert refused.returncode == 2
    assert "phases: was" in refused.stderr
    assert ledger_lines(changed) == ledger_lines(uninterrupted)


@pytest.mark.long
def test_a_person_may_have_sequences_passed_over_that_are_to_come(uninterrupted, values, tmp_path):
    run = copy_up_to(uninterrupted, tmp_path / "run", 10)
    config = tiny.write_config(tmp_path / "run.yaml", values(run))
    before = read_ledger(run)
    write_ledger(run, [*before, SkipEntry(7, 1, "the loss rose")])  # which lies behind
    refused = tiny.run_alone(config)
    assert refused.returncode == 2
    assert "skips: was [], is [[7, 1]]" in refused.stderr

    skip = SkipEntry(11, 2, "the loss rose")
    write_ledger(run, [*before, skip])
    ended = tiny.launch(config)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert skip in read_ledger(run)
    assert tiny.losses(run)[11] == tiny.losses(uninterrupted)[11]
    assert_trace_tells_what_metrics_tell(run)
    # Until the batch grows after step 14, a step has the documents of the one after the next.
    traces = Trace(run), Trace(uninterrupted)
    assert traces[0].step(12) == traces[1].step(14)


@pytest.fixture(scope="module")
def damaged(sets, tmp_path_factory) -> dict[str, str]:
    """The sets, of which one has a byte changed in its second row group."""
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(sets["a"], folder / "a")
    shard = folder / "a" / "shard.parquet"
    group = pq.read_metadata(shard).row_group(1)
    content = bytearray(shard.read_bytes())
    content[group.column(0).data_page_offset + 200] ^= 1
    shard.write_bytes(content)
    return {"a": str(folder / "a"), "b": str(sets["b"])}


@pytest.mark.long
def test_a_damaged_row_group_stops_a_run_or_is_left_out_as_the_config_says(
    damaged, values, tmp_path
):
    train = {name: {"path": path, "weight": 1} for name, path in damaged.items()}
    config = values(tmp_path / "stop", data__train=train)
    stopped = tiny.launch(tiny.write_config(tmp_path / "stop.yaml", config))
    assert stopped.returncode == 1
    told = [line for line in stopped.stderr.splitlines() if "shard.parquet: row group 1" in line]
    assert "checksum is" in told[0]

    losses = {}
    for ranks in (1, 2):
        run = tmp_path / f"skip-{ranks}"
        config = values(
            run, data__train=train, data__bad_row_groups="skip", data__workers=ranks - 1
        )
        ended = tiny.launch(tiny.write_config(tmp_path / f"skip-{ranks}.yaml", config), ranks)
        assert ended.returncode == 0, ended.stderr[-3000:]
        assert "left out from step" in ended.stdout + ended.stderr
        (bad,) = [line for line in ledger_lines(run) if line["event"] == "bad_row_group"]
        assert (bad["source"], bad["group"]) == ("a", 1)
        losses[ranks] = list(tiny.losses(run).values())
        assert_trace_tells_what_metrics_tell(run)
        assert_tokens_are_those_of_the_rows_that_were_read(run)
    assert losses[1] == pytest.approx(losses[2], rel=1e-4)

    # What was left out stays so after a resume, and in a run that is finished and moved.
    moved = copy_up_to(tmp_path / "skip-1", tmp_path / "moved", 10)
    for told in ("done at step", "is finished"):
        again = tiny.run_alone(tmp_path / "skip-1.yaml", "pretrain", "--run", str(moved))
        assert again.returncode == 0, again.stderr[-3000:]
        assert told in again.stderr
        assert "left out from step" not in again.stderr
    assert list(tiny.losses(moved).values()) == losses[1]
    assert_tokens_are_those_of_the_rows_that_were_read(moved)


def assert_tokens_are_those_of_the_rows_that_were_read(run: Path) -> None:
    length = 32  # of tiny.shard_set
    read: Counter[str] = Counter()
    steps = [line for line in runs.lines(run) if "loss" in line]
    assert any(sum(line["rows"].values()) < 5 for line in steps)
    for line in steps:
        read.update(line["rows"])
        rows = sum(line["rows"].values())
        assert line["tokens_per_second"] == pytest.approx(rows * length / line["seconds"])
        assert line["tokens"] == {name: read[name] * length for name in ("a", "b")}
