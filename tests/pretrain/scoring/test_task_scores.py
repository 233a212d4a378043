"""Tasks scored by the engine: the same as launch/evaluate.py scores the exported model."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from data_prep.errors import ConfigError
from data_prep.shards.reader import ShardSet
from pretrain.config import RunConfig, Tasks
from pretrain.export.tokenizer_files import load_tokenizer, write_tokenizer
from tests import runs, tiny

SCRIPT = Path(__file__).with_name("score_tasks_of_a_run.py")
QUESTIONS = [
    {"question": "aspirin", "answer": 0},
    {"question": "heart", "answer": 1},
    {"question": "ab", "answer": 0},
    {"question": "kidneys filter", "answer": 1},
    {"question": "a", "answer": 2},
]


def task_file(folder: Path, name: str, **changes) -> Path:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": ["yes", "no", "cab"],
        "doc_to_target": "answer",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in ("acc", "acc_norm")
        ],
        "metadata": {"version": 1.0},
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(task | changes))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, communication_op) -> Path:
    """model/ as an export has it, a shard set, two tasks and a run's config."""
    folder = tmp_path_factory.mktemp("tasks")
    shards = tiny.shard_set(folder / "a", 30)
    torch.manual_seed(3)
    # Large initial weights, so that answers differ.
    settings: dict[str, Any] = tiny.LLAMA | {"initializer_range": 0.3}
    config = AutoConfig.for_model(settings.pop("model_type"), vocab_size=257, **settings)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder / "model")
    write_tokenizer(folder / "model", ShardSet(shards), config)
    rolling: dict[str, Any] = {"output_type": "loglikelihood_rolling", "doc_to_text": ""}
    rolling |= {"doc_to_target": "{{question}}", "metric_list": [{"metric": "bits_per_byte"}]}
    names = [task_file(folder, "tiny_qa"), task_file(folder, "tiny_rolling", **rolling)]
    values = tiny.run_config(
        folder / "run",
        {"a": shards},
        model={"path": str(folder / "model")},
        training__micro_batch=2,
        tasks={"names": [str(name) for name in names], "every_steps": 5},
    )
    tiny.write_config(folder / "run.yaml", values)
    return folder


def scored(folder: Path, output: Path, ranks: int) -> list[dict]:
    """What each rank wrote."""
    start = [sys.executable]
    if ranks > 1:
        start = [str(Path(sys.executable).with_name("deepspeed")), "--no_local_rank"]
        start += ["--num_gpus", str(ranks), "--master_port", str(tiny.free_port())]
    environment = tiny.ENVIRONMENT | {"PYTHONPATH": str(tiny.ROOT)}
    environment |= {"MASTER_PORT": str(tiny.free_port())} if ranks == 1 else {}
    ended = subprocess.run(
        [*start, str(SCRIPT), str(folder / "run.yaml"), str(output / "scores")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [json.loads((output / f"scores.{rank}.json").read_text()) for rank in range(ranks)]


@pytest.mark.long
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_engine_scores_tasks_as_the_exported_model_is_scored(ranks, folder, tmp_path):
    from pretrain.scoring.evaluation import load_model, score_tasks

    parts = scored(folder, tmp_path, ranks)
    names = yaml.safe_load((folder / "run.yaml").read_text())["tasks"]["names"]
    loaded = load_model("m", folder / "model", "cpu", "float32")
    scores, answers = score_tasks(loaded, names, 2, None, None)
    expected: dict[str, dict[str, float]] = {}
    for score in scores:
        expected.setdefault(score["task"], {})[score["metric"]] = score["value"]
    found = parts[0]["scores"]
    assert found["step"] == 12
    assert found["tasks"].keys() == expected.keys() == {"tiny_qa", "tiny_rolling"}
    for task, metrics in expected.items():
        assert found["tasks"][task] == pytest.approx(metrics, rel=1e-5)
    likelihoods = {
        tuple(prompt): float(answer[0][0])
        for line in answers
        if line["task"] == "tiny_qa"
        for prompt, answer in zip(line["prompts"], line["answers"], strict=True)
    }
    assert len(likelihoods) == 3 * len(QUESTIONS)
    for part in parts:
        mine = {tuple(strings): value for strings, value, _ in part["answers"] if strings}
        for prompt, value in likelihoods.items():
            assert mine[prompt] == pytest.approx(value, abs=1e-4)
    # Equally many collectives on every rank, and all ranks have all answers.
    assert len({part["forwards"] for part in parts}) == 1
    assert all(part["answers"] == parts[0]["answers"] for part in parts)
    assert all(part["scores"] == {} for part in parts[1:])
    assert all(part["random state kept"] for part in parts)


def test_a_run_under_zero_3_scores_its_tasks(folder, tmp_path):
    values = yaml.safe_load((folder / "run.yaml").read_text()) | {"run": str(tmp_path / "run")}
    values["training"]["steps"] = values["tasks"]["every_steps"] = 4
    ended = tiny.run_alone(tiny.write_config(tmp_path / "run.yaml", values))
    assert ended.returncode == 0, ended.stderr[-3000:]
    (line,) = [line for line in runs.lines(tmp_path / "run") if "tasks" in line]
    assert line["step"] == 4
    assert line["tasks"].keys() == {"tiny_qa", "tiny_rolling"}
    assert 0 <= line["tasks"]["tiny_qa"]["acc"] <= 1


@pytest.mark.long
def test_scores_that_a_kill_prevented_are_made_up_for(folder, tmp_path):
    values = yaml.safe_load((folder / "run.yaml").read_text())
    values |= {"run": str(tmp_path / "run"), "checkpoint": {"every_steps": 5, "keep": 10}}
    values["training"]["steps"] = 12
    config = tiny.write_config(tmp_path / "run.yaml", values)
    ended = tiny.run_alone(config)
    assert ended.returncode == 0, ended.stderr[-3000:]
    whole = [line for line in runs.lines(tmp_path / "run") if "tasks" in line]
    assert [line["step"] for line in whole] == [5, 10]
    killed = runs.copy_up_to(tmp_path / "run", tmp_path / "killed", 10)
    lines = (killed / "metrics.jsonl").read_text().splitlines(keepends=True)
    before = next(number for number, line in enumerate(lines) if json.loads(line) == whole[1])
    assert json.loads(lines[before - 1])["event"] == "checkpoint"
    (killed / "metrics.jsonl").write_text("".join(lines[:before]))
    again = tiny.run_alone(config, "pretrain", "--run", str(killed))
    assert again.returncode == 0, again.stderr[-3000:]
    assert [line for line in runs.lines(killed) if "tasks" in line] == whole


def test_rows_are_put_together_the_same_way_everywhere_and_within_bounds():
    from pretrain.scoring.engine_scorer import LOGITS, batches

    rows = [tuple(range(length)) for length in (3, 100, 64, 65, 1, 130, 2)]
    made = batches(rows[::-1], micro_batch=2, longest=130, vocabulary_size=1000)
    assert made == batches(rows, 2, 130, 1000)
    assert sorted(row for inside, _ in made for row in inside) == sorted(rows)
    assert [(len(inside), width) for inside, width in made] == [
        (2, 130),
        (2, 128),
        (2, 64),
        (1, 64),
    ]
    # A vocabulary so large that one row fills what a batch may have.
    alone = batches(rows, micro_batch=8, longest=130, vocabulary_size=LOGITS // 100)
    assert max(len(inside) for inside, _ in alone) == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        pytest.param(
            ["no_such_task_at_all"],
            "Tasks not found: no_such_task_at_all",
            marks=pytest.mark.long,
        ),
        (["GENERATES"], "tiny_generation needs generate_until, which is not done while training"),
        pytest.param(["NO DATA"], "the data of .* cannot be had", marks=pytest.mark.long),
    ],
)
def test_tasks_that_cannot_be_scored_are_refused_in_one_line(names, message, tmp_path):
    from pretrain.scoring.task_scores import check_tasks

    generation: dict[str, Any] = {
        "output_type": "generate_until",
        "doc_to_choice": None,
        "doc_to_target": "x",
    }
    generation |= {"metric_list": [{"metric": "exact_match"}]}
    missing = {"dataset_kwargs": {"data_files": {"test": str(tmp_path / "nowhere.jsonl")}}}
    files = {
        "GENERATES": task_file(tmp_path, "tiny_generation", **generation),
        "NO DATA": task_file(tmp_path, "tiny_missing", **missing),
    }
    chosen = [str(files.get(name, name)) for name in names]
    with pytest.raises(ConfigError, match=message) as caught:
        check_tasks(Tasks(names=chosen, every_steps=1))
    assert len(str(caught.value).splitlines()) == 1


def test_the_tokenizer_of_a_run_is_that_of_its_export(folder):
    config = RunConfig.model_validate(yaml.safe_load((folder / "run.yaml").read_text()))
    shards = ShardSet(config.data.train["a"].path)
    tokenizer = load_tokenizer(shards, AutoConfig.from_pretrained(folder / "model"))
    assert tokenizer("ab").input_ids == tokenizer.convert_tokens_to_ids(["a", "b"])
    assert tokenizer.pad_token == tiny.END
    assert tokenizer.model_max_length == 64
