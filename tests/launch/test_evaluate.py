"""launch/evaluate.py as a user runs it, on a tiny GPT-2 with random weights."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from data_prep.documents import DocumentWriter, empty_metadata, read_json_lines

ROOT = Path(__file__).resolve().parents[2]
CONTEXT = 16
END = "<|endoftext|>"
TEXTS = {
    "pmid:1": "Aspirin inhibits cyclooxygenase. " * 6,
    "pmid:2": "β-blockers lower blood pressure (p < 0.05).",
    "pmid:3": f"A text that mentions {END} as words, not as a token.",
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS.values(),
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END
    )
    for name, seed in (("before", 0), ("after", 1)):
        torch.manual_seed(seed)
        # Large initial weights, so that predictions differ from uniform.
        config = transformers.GPT2Config(
            vocab_size=len(fast),
            n_positions=CONTEXT,
            n_embd=32,
            n_layer=2,
            n_head=2,
            initializer_range=0.3,
            bos_token_id=0,
            eos_token_id=0,
        )
        transformers.GPT2LMHeadModel(config).save_pretrained(folder / name)
        fast.save_pretrained(folder / name)
    with DocumentWriter(folder / "held-out.jsonl.zst") as writer:
        for key, text in TEXTS.items():
            writer.write({"id": key, "text": text, "source": "t", "metadata": empty_metadata()})
    return folder


def evaluate(folder: Path, config: dict, *overrides: str) -> subprocess.CompletedProcess[str]:
    path = folder / "evaluate.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return subprocess.run(
        [
            sys.executable,
            ROOT / "launch/evaluate.py",
            "--config",
            path,
            "--local_rank=0",
            *overrides,
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        timeout=300,
        check=False,
    )


def nats_of(model: transformers.PreTrainedModel, ids: list[int]) -> float:
    """Sum of -log p in windows that follow each other; only the last window looks further back."""
    sequence = [0, *ids]  # the begin token is id 0
    nats = 0.0
    for first in range(0, len(ids), CONTEXT):
        stop = min(first + CONTEXT, len(ids))
        start = max(stop - CONTEXT, 0) if first else 0
        inputs, targets = sequence[start:stop], sequence[start + 1 : stop + 1]
        with torch.no_grad():
            logits = model(torch.tensor([inputs])).logits[0].double()
        picked = torch.log_softmax(logits, -1)[range(len(targets)), targets]
        nats -= picked[first - start :].sum().item()
    return nats


@pytest.fixture(scope="module")
def results(workplace: Path) -> dict:
    config = {
        "models": {name: str(workplace / name) for name in ("before", "after")},
        "documents": {"pubmed": [str(workplace / "*.jsonl.zst")]},
        "dtype": "float32",
        "device": "cpu",
        "batch_size": 2,
        "output": str(workplace / "out"),
    }
    ended = evaluate(workplace, config)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert "bits_per_byte" in ended.stdout
    return json.loads((workplace / "out/results.json").read_text())


def test_bits_per_byte_equal_a_plain_torch_computation(workplace: Path, results: dict) -> None:
    total = sum(len(text.encode()) for text in TEXTS.values())
    for score in results["perplexity"]:
        folder = workplace / score["model"]
        model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.encode_special_tokens = True
        nats = sum(nats_of(model, tokenizer.encode(text).ids) for text in TEXTS.values())
        assert score["documents"] == len(TEXTS)
        assert score["bytes"] == total
        assert score["bits_per_byte"] == pytest.approx(nats / math.log(2) / total, rel=1e-5)
        assert score["byte_perplexity"] == pytest.approx(math.exp(nats / total), rel=1e-5)


def test_the_log_names_every_document_and_adds_up_to_the_result(
    workplace: Path, results: dict
) -> None:
    lines = list(read_json_lines(workplace / "out/documents.jsonl.zst"))
    for score in results["perplexity"]:
        mine = [line for line in lines if line["model"] == score["model"]]
        assert {line["id"] for line in mine} == set(TEXTS)
        nats = -sum(line["log_likelihood"] for line in mine)
        assert score["bits_per_byte"] == pytest.approx(nats / math.log(2) / score["bytes"])


def test_results_name_the_weights_and_the_version_of_lm_eval(results: dict) -> None:
    before, after = results["models"]
    assert (before["name"], after["name"]) == ("before", "after")
    assert before["hash"] != after["hash"]
    assert results["lm_eval"]


def test_a_local_task_is_scored_offline_and_its_prompts_are_kept(workplace: Path) -> None:
    questions = [
        {"question": "Does aspirin inhibit cyclooxygenase?", "answer": 0},
        {"question": "Do β-blockers raise blood pressure?", "answer": 1},
    ]
    data = workplace / "questions.jsonl"
    data.write_text("".join(json.dumps(question) + "\n" for question in questions))
    task = {
        "task": "tiny_qa",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": ["yes", "no"],
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.5},
    }
    (workplace / "tiny_qa.yaml").write_text(json.dumps(task))
    config = {
        "models": {"before": str(workplace / "before")},
        "tasks": [str(workplace / "tiny_qa.yaml")],
        "output": str(workplace / "tasks"),
    }
    ended = evaluate(workplace, config, "--device", "cpu")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    (score,) = json.loads((workplace / "tasks/results.json").read_text())["tasks"]
    assert score["metric"] == "acc"
    assert score["value"] in (0.0, 0.5, 1.0)
    assert (score["questions"], score["version"], score["unparsable"]) == (2, 1.5, None)
    answers = list(read_json_lines(workplace / "tasks/answers.jsonl.zst"))
    assert questions[1]["question"] in json.dumps(answers[1]["prompts"], ensure_ascii=False)


def test_a_file_that_holds_no_documents_is_named_in_one_line(workplace: Path) -> None:
    lines = workplace / "lines.jsonl"
    lines.write_text('{"id": "a", "text": "Text."}\n{"id": "b", "body": "Text."}\n')
    config = {
        "models": {"m": str(workplace / "before")},
        "documents": {"pubmed": [str(lines)]},
        "output": str(workplace / "never"),
    }
    ended = evaluate(workplace, config)
    assert ended.returncode == 1
    assert f"{lines}: record 2 has no id and text" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"models": {"m": "nowhere"}}, "models.m: nowhere has no config.json"),
        ({"documents": {"pubmed": ["nowhere/*.zst"]}}, "documents.pubmed: no file matches"),
        ({"bach_size": 2}, "did you mean batch_size?"),
        ({"documents": {}}, "nothing to evaluate on"),
        ({"context_tokens": CONTEXT + 1}, f"the model m has a context of {CONTEXT} tokens"),
    ],
)
def test_a_mistake_ends_with_one_line_and_code_2(
    workplace: Path, changed: dict, message: str
) -> None:
    config = {
        "models": {"m": str(workplace / "before")},
        "documents": {"pubmed": [str(workplace / "*.jsonl.zst")]},
        "output": str(workplace / "never"),
    }
    ended = evaluate(workplace, config | changed)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
