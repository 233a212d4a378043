"""launch/report.py as a user runs it: the page stands alone, and its numbers are those of its inputs."""

import json
import os
import re
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from lxml import html

from data_prep.shards.assemble import build_shard_set, shard_format
from data_prep.shards.writer import EncodedDocument
from data_prep.tokenizer.encode import load_encoder
from tests.data_prep.instruct.small_tokenizer import write_tokenizer

ROOT = Path(__file__).resolve().parents[2]
# (source, split): [(year, tokens)]
DOCUMENTS: dict[tuple[str, str], list[tuple[int | None, int]]] = {
    ("pubmed", "train"): [(1987 + k % 30, 20 + 7 * k) for k in range(90)] + [(None, 12)],
    ("pubmed", "validation"): [(2020, 33), (2021, 64)],
    ("pmc", "train"): [(2019, 1500), (2021, 900)],
}
DROPPED = {"curate": {"no_abstract": 1234, "retracted": 5}, "extract": {"malformed XML": 2}}
LOSSES = [5.0 - 0.1 * step for step in range(1, 21)]
EVALUATION = {
    "lm_eval": "0.4.13",
    "limit": 40,
    "dtype": "float32",
    "models": [{"name": name, "folder": name, "hash": name * 20} for name in ("before", "after")],
    "perplexity": [
        {
            "model": model,
            "source": "pubmed",
            "documents": 40,
            "bytes": 51234,
            "context_tokens": 1024,
            "bits_per_byte": bits,
            "byte_perplexity": 2**bits,
            "word_perplexity": 2 ** (6 * bits),
        }
        for model, bits in (("before", 1.3125), ("after", 0.875))
    ],
    "tasks": [
        {
            "model": "after",
            "task": "pubmedqa",
            "version": 1.0,
            "few_shot": 0,
            "questions": 40,
            "metric": "acc",
            "value": 0.625,
            "standard_error": 0.0766,
            "unparsable": 0.05,
        }
    ],
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    tokenizer = write_tokenizer(folder / "tokenizer", begins=False)
    form = shard_format(
        load_encoder(tokenizer),
        sequence_length=128,
        policy="best_fit",
        row_group=64,
        begin_token=False,
    )
    for (source, split), documents in DOCUMENTS.items():
        target = folder / "corpus/shards" / f"{source}-{split}"
        target.mkdir(parents=True)
        build_shard_set(
            target,
            [
                EncodedDocument(f"{source}:{k}", np.full(tokens, 9), source, tokens, {"year": year})
                for k, (year, tokens) in enumerate(documents)
            ],
            form,
            window=64,
            source=source,
            split=split,
            tokenizer=tokenizer,
            settings={},
            inputs={},
        )
    for stage, key in (("curate", "dropped"), ("extract", "reject_reasons")):
        unit = folder / "corpus" / stage / "pubmed/pubmed26n0001"
        unit.mkdir(parents=True)
        (unit / "unit.json").write_text(json.dumps({"counts": {key: DROPPED[stage]}}))
    write_run(folder / "run")
    (folder / "results.json").write_text(json.dumps(EVALUATION))
    return folder


def write_run(folder: Path) -> None:
    lines: list[dict] = [
        {
            "step": step,
            "loss": loss,
            "learning_rate": 1e-4,
            "gradient_norm": 1.0,
            "tokens_per_second": 1000.0 + step,
            "trained_tokens": 4096,
            "seconds": 1.0,
        }
        for step, loss in enumerate(LOSSES, start=1)
    ]
    lines.insert(10, {"step": 10, "event": "resumed", "ranks": 2, "rolled_back": 3})
    for place, step, loss in ((0, 0, 5.5), (len(lines) + 1, 20, 3.25)):
        results = {"loss": loss, "perplexity": float(np.exp(loss)), "tokens": 99}
        lines.insert(place, {"step": step, "validation": {"general<b>": results}})
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "metrics.rolled-back.jsonl").write_text('{"step": 11}\n' * 3)
    (folder / "config.yaml").write_text("seed: 20261\n")
    (folder / "status.json").write_text(json.dumps({"state": "interrupted", "step": 20}))


def report(folder: Path, *arguments: str, **config: object) -> subprocess.CompletedProcess[str]:
    path = folder / "report.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return subprocess.run(
        [sys.executable, ROOT / "launch/report.py", "--config", path, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=200,
        check=False,
    )


def parsed(page: Path) -> html.HtmlElement:
    return html.fromstring(page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(inputs: Path) -> html.HtmlElement:
    ended = report(
        inputs,
        title="A <b>title</b>",
        corpus=str(inputs / "corpus"),
        runs={"pretraining": str(inputs / "run")},
        evaluation=str(inputs / "results.json"),
        output=str(inputs / "report.html"),
    )
    assert ended.returncode == 0, ended.stderr
    return parsed(inputs / "report.html")


def words(element: html.HtmlElement) -> str:
    return " ".join(" ".join(element.itertext()).split())


def rows(page: html.HtmlElement, table: str) -> list[list[str]]:
    return [[words(cell) for cell in row] for row in page.xpath(f"//table[@id='{table}']/tbody/tr")]


def test_the_page_asks_for_nothing_outside_itself(page: html.HtmlElement, inputs: Path) -> None:
    for element in page.iter(html.etree.Element):
        for name, value in element.attrib.items():
            if name.rpartition(":")[2] in ("href", "src", "srcset", "data", "action", "poster"):
                assert value.startswith("#"), (element.tag, name, value)
    text = (inputs / "report.html").read_text()
    assert not re.search(r"@import|url\((?!#)|<script|<link|<iframe", text)
    assert len(page.xpath("//*[local-name()='svg']")) == 5


def test_ids_are_unique_and_inner_links_lead_somewhere(page: html.HtmlElement) -> None:
    ids = Counter(page.xpath("//@id"))
    assert max(ids.values()) == 1
    for link in page.xpath("//@href | //@*[name()='xlink:href']"):
        assert link.removeprefix("#") in ids


def test_sets_years_and_drops_are_those_of_the_corpus(page: html.HtmlElement) -> None:
    found = {row[0]: (row[3], row[4]) for row in rows(page, "sets")}
    assert found == {
        f"{source}-{split}": (f"{len(documents):,}", f"{sum(t for _, t in documents):,}")
        for (source, split), documents in DOCUMENTS.items()
    }
    expected: dict[str, list[int]] = {}
    for (source, _), documents in DOCUMENTS.items():
        for year, tokens in documents:
            entry = expected.setdefault(str(year or "unknown"), [0, 0, 0, 0])
            place = 0 if source == "pmc" else 2
            entry[place] += 1
            entry[place + 1] += tokens
    shown = {
        row[0]: [int(cell.replace(",", "")) for cell in row[1:]] for row in rows(page, "years")
    }
    assert shown == expected
    assert rows(page, "dropped") == [
        ["curate", "no_abstract", "1,234"],
        ["curate", "retracted", "5"],
        ["extract", "malformed XML", "2"],
    ]


def test_the_run_s_figures_are_those_of_its_metrics(page: html.HtmlElement) -> None:
    facts = {
        fact.xpath("string(dt)"): fact.xpath("string(dd)")
        for fact in page.xpath("//section[@id='training']//dl/div")
    }
    assert facts == {
        "state": "interrupted",
        "steps": "20",
        "last training loss": f"{LOSSES[-1]:.4f}",
        "tokens trained on": f"{20 * 4096:,}",
        "median tokens a second": f"{statistics.median(range(1001, 1021)):,.0f}",
    }
    text = words(page.get_element_by_id("training"))
    assert "general<b> 0 5.5000 244.69 20 3.2500 25.79" in text
    assert "resumes: 1" in text
    assert "seed: 20261" in text
    assert "moved to metrics.rolled-back.jsonl: 3" in text


def test_the_evaluation_compares_the_models_in_the_order_given(page: html.HtmlElement) -> None:
    assert rows(page, "perplexity") == [
        ["pubmed", "40", "51,234", "1.3125", "0.8750", "-0.4375"],
    ]
    assert rows(page, "tasks") == [
        ["pubmedqa", "acc", "1.0", "0", "40", "–", "0.6250 ± 0.0766 5.0 % not parsable"],
    ]


def test_what_is_missing_is_said(inputs: Path, page: html.HtmlElement) -> None:
    assert "No model was given" in page.get_element_by_id("samples").text_content()
    bare = inputs / "bare"
    bare.mkdir()
    ended = report(inputs, corpus=str(bare), output=str(bare / "report.html"))
    assert ended.returncode == 0, ended.stderr
    empty = parsed(bare / "report.html")
    corpus = empty.get_element_by_id("corpus").text_content()
    assert "Not shown: shard sets" in corpus
    assert "Not shown: what the stage curate left out" in corpus
    assert "No run was given" in empty.get_element_by_id("training").text_content()
    assert "No evaluation was given" in empty.get_element_by_id("evaluation").text_content()


def test_samples_are_what_the_model_writes(inputs: Path) -> None:
    import torch
    import transformers

    folder = inputs / "model"
    transformers.AutoTokenizer.from_pretrained(inputs / "tokenizer").save_pretrained(folder)
    config = transformers.GPT2Config(
        vocab_size=400, n_positions=32, n_embd=16, n_layer=1, n_head=1, initializer_range=1.0
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(folder)
    prompt = "What is aspirin?"
    target = inputs / "samples.html"
    ended = report(
        inputs, models={"tiny": str(folder)}, prompts=[prompt], new_tokens=6, output=str(target)
    )
    assert ended.returncode == 0, ended.stderr
    greedy, _ = parsed(target).xpath("//p[@class='answer']/text()")
    tokenizer = load_encoder(inputs / "tokenizer")
    ids = tokenizer.encode([prompt])[0].tolist()
    for _ in range(6):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    expected = tokenizer.decode(ids[-6:])
    assert greedy.strip() == expected.replace("</s>", "").strip()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"corpus": "nowhere"}, "corpus: nowhere is not a folder"),
        ({"runs": {"a": "nowhere"}}, "runs.a: nowhere has no metrics.jsonl"),
        ({"evaluation": "nowhere.json"}, "evaluation: nowhere.json is not there"),
        ({"evaluation": "README.md"}, "evaluation: README.md is not what launch/evaluate.py"),
        ({"models": {"m": "nowhere"}}, "models.m: nowhere has no config.json"),
        ({"run": {}}, "did you mean runs?"),
    ],
)
def test_a_mistake_ends_with_one_line_and_code_2(inputs: Path, config: dict, message: str) -> None:
    ended = report(inputs, **config)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
