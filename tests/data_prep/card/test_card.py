"""The card's figures against counts of the very files, by other means than those that made them."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import zstandard

from data_prep.__main__ import main
from tests.data_prep.test_pipeline import write_config

Table = list[list[str]]


def tables(card: Path) -> dict[str, Table]:
    """The rows of each Markdown table below its header, by its first column's title."""
    found: dict[str, Table] = {}
    for block in re.findall(r"(?:^\|.*\n)+", card.read_text(), re.M):
        header, rule, *rows = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in block.splitlines()
        ]
        assert all(re.fullmatch(r"-+:?", cell) for cell in rule)
        assert {len(row) for row in [header, rule, *rows]} == {len(header)}
        found[header[0]] = rows
    return found


def lines(pattern: str, folder: Path) -> Iterator[Any]:
    for path in sorted(folder.glob(pattern)):
        with zstandard.open(path, "rt", encoding="utf-8") as stream:
            yield from map(json.loads, stream)


def number(cell: str) -> int:
    return int(cell.replace(",", ""))


def as_numbers(rows: Table) -> dict[str, tuple[int, ...]]:
    return {row[0]: tuple(map(number, row[1:])) for row in rows}


def tallied(pairs: Iterator[tuple[object, int]]) -> dict[str, tuple[int, ...]]:
    """[documents, amount] by value as the card writes it."""
    documents: Counter[str] = Counter()
    amounts: Counter[str] = Counter()
    for value, amount in pairs:
        name = "unknown" if value is None else str(value)
        documents[name] += 1
        amounts[name] += amount
    return {name: (documents[name], amounts[name]) for name in documents}


def decade(year: int | None) -> str | None:
    return None if year is None else f"{year // 10}0 to {year // 10}9"


def test_every_table_is_what_the_files_hold(built, raw):
    card = tables(built / "CARD.md")
    packed = {
        path.parent.name: pq.read_table(path).to_pylist()
        for path in built.glob("shards/*/documents.parquet")
    }
    every = [row for rows in packed.values() for row in rows]
    first = re.search(
        r"^([\d,]+) documents, ([\d,]+) tokens$", (built / "CARD.md").read_text(), re.M
    )
    assert first is not None
    assert list(map(number, first.groups())) == [len(every), sum(row["tokens"] for row in every)]
    assert {row[0]: (number(row[3]), number(row[4])) for row in card["set"]} == {
        name: (len(rows), sum(row["tokens"] for row in rows)) for name, rows in packed.items()
    }
    for row in card["set"]:
        files = built.glob(f"shards/{row[0]}/*.parquet")
        shards = [path for path in files if pq.read_schema(path).names[0] == "tokens"]
        assert number(row[5]) == sum(pq.read_metadata(path).num_rows for path in shards)

    assert as_numbers(card["licence"]) == tallied((r["licence"], r["tokens"]) for r in every)
    assert as_numbers(card["journal"]) == tallied((r["journal"], r["tokens"]) for r in every)
    years = tallied((decade(row["year"]), row["tokens"]) for row in every)
    assert as_numbers(card["published"]) == years
    kept = [*lines("curate/*/*/train.jsonl.zst", built)]
    kept += lines("curate/*/*/validation.jsonl.zst", built)
    assert sorted(row["id"] for row in kept) == sorted(row["id"] for row in every)
    languages = tallied((row["metadata"]["language"], len(row["text"])) for row in kept)
    assert as_numbers(card["language"]) == languages

    dropped = Counter(row["reason"] for row in lines("curate/*/*/dropped.jsonl.zst", built))
    assert {row[1]: number(row[2]) for row in card["stage"]} == dropped
    for source, suffix in (("pubmed", "*.xml*"), ("pmc", "*.xml")):
        files = [path for path in (raw / source).rglob(suffix) if path.suffix != ".md5"]
        (row,) = (row for row in card["source"] if row[0] == source)
        assert [number(row[3]), number(row[4])] == [
            len(files),
            sum(path.stat().st_size for path in files),
        ]


def test_every_reason_to_drop_a_document_has_examples_that_it_dropped(built):
    text = (built / "CARD.md").read_text()
    dropped = [*lines("curate/*/*/dropped.jsonl.zst", built)]
    for reason in {row["reason"] for row in dropped}:
        found = re.search(rf"^- {reason}, for example (\S+) \(", text, re.M)
        assert found is not None
        assert found[1] in {row["id"] for row in dropped if row["reason"] == reason}


def test_a_corpus_without_its_config_says_what_is_not_shown(built, tmp_path, capsys):
    folder = tmp_path / "moved"
    shutil.copytree(built, folder)
    whole = tables(folder / "CARD.md")
    assert main(["card", str(folder)]) == 0
    assert tables(folder / "CARD.md") == whole  # where the folder is does not matter
    (folder / "config.yaml").unlink()
    assert main(["card", str(folder)]) == 0
    text = (folder / "CARD.md").read_text()
    assert f"Not shown: where the text came from, because {folder / 'config.yaml'} is not" in text
    assert tables(folder / "CARD.md") == whole | {"source": []}


def test_corpora_that_share_raw_folders_tell_each_of_its_own_sources(raw, tmp_path, capsys):
    sources = {
        "pubmed": {"format": "pubmed", "path": str(raw / "pubmed")},
        "pmc": {"format": "jats", "path": str(raw / "pmc")},
    }
    for name, source in sources.items():
        config = write_config(
            tmp_path / f"{name}.yaml", raw, tmp_path / name, sources={name: source}
        )
        for stage in ("download", "extract", "curate"):
            command = [stage, str(config), "--raw", str(tmp_path / "shared")]
            assert main(command) == 0, capsys.readouterr().err
    for name in sources:
        assert not (tmp_path / name / "extract").exists()
        assert main(["card", str(tmp_path / name)]) == 0
        text = (tmp_path / name / "CARD.md").read_text()
        card = tables(tmp_path / name / "CARD.md")
        assert [row[0] for row in card["source"]] == [name]
        assert re.findall(r"^- (\w+): [\d,]+ documents", text, re.M) == [name]
        assert "Not shown: shard sets" in text


def test_what_was_kept_out_of_a_benchmark_is_told_with_documents_and_questions(
    raw, tmp_path, capsys
):
    sources = {"pubmed": {"format": "pubmed", "path": str(raw / "pubmed")}}
    questions = tmp_path / "questions.jsonl"
    about = {"name": "ex|am", "path": str(questions), "fields": ["question"]}
    config = write_config(
        tmp_path / "corpus.yaml",
        raw,
        tmp_path / "corpus",
        sources=sources,
        curate={"near_duplicates": {}, "decontaminate": {"benchmarks": [about]}},
    )
    for stage in ("download", "extract"):
        assert main([stage, str(config)]) == 0, capsys.readouterr().err
    documents = lines("extract/*/*/documents.jsonl.zst", tmp_path / "corpus")
    (text,) = (
        row["text"]
        for row in documents
        if row["id"] == "pmid:90000017" and "counting" in row["text"]
    )
    asked = ["Too short?", "What follows from this, as far as one can say? " + text]
    questions.write_text("".join(json.dumps({"question": one}) + "\n" for one in asked))
    assert main(["curate", str(config)]) == 0, capsys.readouterr().err
    assert main(["card", str(tmp_path / "corpus")]) == 0
    card = tmp_path / "corpus/CARD.md"
    assert tables(card)["benchmark"] == [["ex\\|am", "2", "1", "1", "1"]]
    assert "The longest shared with ex|am: pmid:90000017 and question 1." in card.read_text()
    assert ["curate", "contaminated", "1"] in tables(card)["stage"]
    assert re.search(r"^\d+ documents compared: 0 clusters", card.read_text(), re.M)

    for path in (tmp_path / "corpus/decontaminate").glob("*/*"):
        shutil.rmtree(path)
    assert main(["card", str(tmp_path / "corpus")]) == 0
    assert "Not shown: the benchmarks that the config names" in card.read_text()


def test_a_config_that_is_none_is_named(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("output: corpus\nnothing: 1\n")
    assert main(["card", str(tmp_path)]) == 2
    assert str(tmp_path / "config.yaml") in capsys.readouterr().err
