"""Steps to documents and back, held against every step's batch and the shards as pandas reads them."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data_prep.documents import empty_metadata
from data_prep.errors import ConfigError, DataError
from data_prep.files import write_json
from data_prep.shards.assemble import build_shard_set, shard_format
from data_prep.shards.reader import ShardSet
from data_prep.shards.writer import EncodedDocument
from data_prep.tokenizer.encode import load_encoder
from pretrain.ledger import BadRowGroup, Entry, PhaseEntry, SkipEntry, write_ledger
from pretrain.order.order import Order, SourceRows
from pretrain.tracing.trace import Trace
from tests.tiny import ENVIRONMENT, ROOT, byte_tokenizer, run_config, write_config

STEPS, DONE, LENGTH, GROUP = 40, 17, 16, 4
LEDGER: list[Entry] = [
    PhaseEntry(0, {"abstracts": 2, "articles": 1}, 4),
    SkipEntry(6, 2, "loss 11.2 after 2.1"),
    BadRowGroup(9, "abstracts", 1, "checksum is 00000000"),
    PhaseEntry(20, {"abstracts": 1, "articles": 3}, 6),
    PhaseEntry(36, {"articles": 1}),
]


def _document(kind: str, number: int, tokens: int) -> EncodedDocument:
    metadata = empty_metadata() | {
        "pmid": 1000 + number,
        "pmcid": f"PMC{number}",
        "licence": "cc0" if number % 2 else "cc-by",
    }
    name = f"pmid:{1000 + number}" if kind == "abstracts" else f"pmcid:PMC{number}"
    return EncodedDocument(name, np.full(tokens, 97, np.uint16), kind, tokens, metadata)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has done DONE of its STEPS steps."""
    folder = tmp_path_factory.mktemp("trace")
    tokenizer = byte_tokenizer(folder / "tokenizer")
    form = shard_format(
        load_encoder(tokenizer),
        sequence_length=LENGTH,
        policy="best_fit",
        row_group=GROUP,
        begin_token=False,
        has_loss_mask=False,
    )
    sets = {"abstracts": (60, 4, 20), "articles": (12, 30, 60)}
    for seed, (name, (count, least, most)) in enumerate(sets.items()):
        lengths = np.random.default_rng(seed).integers(least, most, count).tolist()
        (folder / name).mkdir()
        build_shard_set(
            folder / name,
            iter([_document(name, number, tokens) for number, tokens in enumerate(lengths)]),
            form,
            window=8,
            source=name,
            split="train",
            tokenizer=tokenizer,
            settings={},
            inputs={"made up": "1"},
        )
    values = run_config(
        folder / "run", {name: folder / name for name in sets}, training__steps=STEPS
    )
    values["data"]["train"]["abstracts"]["weight"] = 2
    write_config(folder / "run" / "config.yaml", values)
    write_ledger(folder / "run", LEDGER)
    write_json(folder / "run" / "status.json", {"state": "interrupted", "step": DONE})
    return folder / "run"


def _shards(run: Path) -> dict[str, ShardSet]:
    return {name: ShardSet(run.parent / name) for name in ("abstracts", "articles")}


def _order(run: Path) -> Order:
    sources = [SourceRows(name, shards.row_groups) for name, shards in _shards(run).items()]
    return Order(sources, [2, 1], 7, 4, 4, LEDGER)


def _stored(run: Path) -> dict[str, pd.DataFrame]:
    """Every set's rows in set order."""
    return {
        name: pd.concat(
            [pd.read_parquet(shards.folder / file.name) for file in shards.manifest.files],
            ignore_index=True,
        )
        for name, shards in _shards(run).items()
    }


def test_a_step_names_the_documents_of_its_batch(run):
    order, stored, trace = _order(run), _stored(run), Trace(run)
    names, left_out = list(stored), 0
    for step in range(STEPS):
        rows, found = order.batch(step), trace.step(step + 1)
        assert len(found) == len(rows.source)
        for place, row in enumerate(found):
            name = names[rows.source[place]]
            assert (row.source, row.row, row.epoch) == (name, rows.row[place], rows.epoch[place])
            assert Path(row.file).parent == run.parent / name
            # one file to a set here: its row groups are the set's
            assert row.row_group == rows.group[place]
            if name == "abstracts" and row.row_group == 1 and step >= 9:
                assert row.left_out == "checksum is 00000000"
                assert row.documents == []
                left_out += 1
                continue
            assert row.left_out is None
            pieces = stored[name]["documents"][row.row_group * GROUP + row.row]
            assert [(piece.id, piece.offset, piece.length) for piece in row.documents] == [
                (piece["id"], piece["offset"], piece["length"]) for piece in pieces
            ]
            for piece in row.documents:
                number = int(piece.id.removeprefix("pmid:1").removeprefix("pmcid:PMC"))
                assert (piece.pmid, piece.pmcid) == (1000 + number, f"PMC{number}")
                assert piece.licence == ("cc0" if number % 2 else "cc-by")
    assert left_out > 0


def _expected(run: Path, document: str) -> set[tuple[Any, ...]]:
    """(kind, step, source, row of the set, epoch) of all that becomes of a document, step by step."""
    order, stored = _order(run), _stored(run)
    without_skip = Order(order.sources, [2, 1], 7, 4, 4, [*LEDGER[:1], *LEDGER[2:3]])
    holds = {
        name: {
            number
            for number, pieces in enumerate(frame["documents"])
            if document in [piece["id"] for piece in pieces]
        }
        for name, frame in stored.items()
    }
    names = list(stored)
    turns = set()

    def add(order: Order, step: int, told: int, kind: str | None) -> None:
        rows = order.batch(step)
        for source, group, row, epoch, usable in zip(
            rows.source, rows.group, rows.row, rows.epoch, rows.usable, strict=True
        ):
            number = int(group) * GROUP + int(row)
            if number in holds[names[source]]:
                what = kind or ("seen" if step < DONE else "to_come")
                what = what if usable or kind else "left_out"
                turns.add((what, told, names[source], number, int(epoch)))

    for step in range(STEPS):
        add(order, step, step + 1, None)
    # the two steps that would have come after the sixth
    for step in (6, 7):
        add(without_skip, step, 6, "skipped")
    return turns


def _found(rows: Sequence[Any]) -> set[tuple[Any, ...]]:
    return {
        (kind, turn.step, row.source, row.row_group * GROUP + row.row, turn.epoch)
        for row in rows
        for kind in ("seen", "to_come", "skipped", "left_out")
        for turn in getattr(row, kind)
    }


def test_a_document_names_the_steps_that_read_it(run):
    trace = Trace(run)
    kinds = set()
    for number in range(12):
        rows = trace.document(f"pmid:{1000 + number}")
        both = {f"pmid:{1000 + number}", f"pmcid:PMC{number}"}
        assert {row.document for row in rows} == both
        for document in both:
            expected = _expected(run, document)
            assert _found([row for row in rows if row.document == document]) == expected
            kinds |= {turn[0] for turn in expected}
    assert kinds == {"seen", "to_come", "skipped", "left_out"}


def test_a_pmcid_finds_the_article_and_its_abstract(run):
    trace = Trace(run)
    assert [asdict(row) for row in trace.document("pmcid:PMC3")] == [
        asdict(row) for row in trace.document("pmid:1003")
    ]


def _launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "launch/trace.py"), *arguments]
    return subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_command_gives_a_line_of_json_for_each_row(run):
    step = _launch("--run", str(run), "--step", "3", "--json", "true")
    assert step.returncode == 0, step.stderr
    lines = [json.loads(line) for line in step.stdout.splitlines()]
    assert lines == json.loads(json.dumps([asdict(row) for row in Trace(run).step(3)]))
    document = _launch("--run", str(run), "--document", "pmcid:PMC3", "--json=true")
    lines = [json.loads(line) for line in document.stdout.splitlines()]
    assert lines == [asdict(row) for row in Trace(run).document("pmcid:PMC3")]


def test_the_command_shows_tables_and_imports_no_torch(run):
    for arguments, shown in ((("--step", "3"), "step 3"), (("--document", "pmid:1003"), "17")):
        code = (
            "import sys; sys.argv[1:] = sys.argv[2:]; import runpy\n"
            "try: runpy.run_path('launch/trace.py', run_name='__main__')\n"
            "finally: assert 'torch' not in sys.modules"
        )
        command = [sys.executable, "-c", code, "", "--run", str(run), *arguments]
        done = subprocess.run(
            command,
            env=ENVIRONMENT | {"COLUMNS": "200"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert shown in done.stdout
        assert "cc" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--step", "41"), "step: 41 is none of the run's steps, 1 to 40"),
        (("--step", "0"), "step: Input should be greater than or equal to 1"),
        (
            ("--document", "pmid:5"),
            "document: pmid:5 is in none of the run's training sets (abstracts, articles)",
        ),
        ((), "give either step"),
        (("--step", "1", "--document", "pmid:5"), "give either step"),
    ],
)
def test_what_cannot_be_answered_is_said_in_one_line(run, arguments, message):
    done = _launch("--run", str(run), *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no config.yaml"):
        Trace(tmp_path)


def test_a_list_of_documents_that_cannot_be_read_is_named(run, tmp_path):
    moved = run.parent / "abstracts" / "documents.parquet"
    content = moved.read_bytes()
    try:
        moved.write_bytes(b"PAR1")
        with pytest.raises(DataError, match=r"documents.parquet: not readable"):
            Trace(run).step(1)
    finally:
        moved.write_bytes(content)
