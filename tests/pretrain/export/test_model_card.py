"""The model card: front matter that the hub reads, and figures that can be counted again."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import ModelCard

from data_prep.config_file import to_yaml
from data_prep.shards.reader import ShardSet
from pretrain.config import RunConfig
from pretrain.export.config import ExportConfig
from pretrain.export.model_card import read_facts, render_card
from tests import tiny

EVALUATION = {
    "lm_eval": "0.4",
    "limit": None,
    "dtype": "auto",
    "models": [{"name": "after", "folder": "x", "hash": "y"}],
    "perplexity": [{"model": "after", "source": "pubmed", "bits_per_byte": 0.98765}],
    "tasks": [
        {
            "model": "after",
            "task": "a|task",
            "metric": "acc",
            "value": 0.25,
            "standard_error": "N/A",
        }
    ],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a run of three steps whose checkpoint is of step 2."""
    folder = tmp_path_factory.mktemp("card")
    sets = {name: tiny.shard_set(folder / name, 30, seed) for seed, name in enumerate("ab")}
    run = folder / "run"
    values = tiny.run_config(run, sets)
    checkpoint = run / "checkpoints/step-00000002"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    (run / "config.yaml").write_text(to_yaml(RunConfig.model_validate(values)))
    (run / "deepspeed.json").write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    lines = [
        {"step": 0, "validation": {"a": {"loss": 6.0, "perplexity": 403.4, "tokens": 10}}},
        {"step": 1, "loss": 5.5, "rows": {"a": 3, "b": 1}, "epochs": {"a": 0.1, "b": 0.05}},
        {"step": 2, "loss": 5.25, "rows": {"a": 4}, "epochs": {"a": 0.2, "b": 0.05}},
        {"step": 2, "validation": {"a": {"loss": 5.0, "perplexity": 148.4132, "tokens": 1234}}},
        {"step": 3, "loss": 4.75, "rows": {"a": 4}, "epochs": {"a": 0.3, "b": 0.05}},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def card(run: Path, **changes) -> str:
    config = ExportConfig(run=run, output=run.parent / "a-model", **changes)
    settings = RunConfig.model_validate(yaml.safe_load((run / "config.yaml").read_text()))
    state = {"step": 2, "total_tokens": 12345}
    checkpoint = run / "checkpoints/step-00000002"
    return render_card(read_facts(config, settings, checkpoint, state, "GPT2LMHeadModel", 35744))


def rows(text: str) -> list[list[str]]:
    """The cells of every table's line."""
    return [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]


def test_the_hub_reads_the_front_matter(run):
    chosen = {"license": "apache-2.0", "language": ["en", "zh"], "datasets": ["owner/abstracts"]}
    data = ModelCard(card(run, **chosen)).data.to_dict()
    assert data == {
        "language": ["en", "zh"],
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["biology", "medical"],
        "datasets": ["owner/abstracts"],
    }
    # Nobody has chosen a licence: the card does not either.
    assert "license" not in yaml.safe_load(card(run).split("---")[1])


def test_data_is_counted_up_to_the_checkpoint_and_no_further(run):
    found = {line[0]: line[1:] for line in rows(card(run)) if len(line) == 7}
    for name, sequences, epochs in (("a", 3 + 4, "0.200"), ("b", 1, "0.050")):
        shards = ShardSet(run.parent / name)
        counts = shards.manifest.counts
        assert found[name][:6] == [
            f"{counts['documents']:,}",
            f"{counts['tokens']:,}",
            str(sequences),
            str(sequences * shards.manifest.sequence_length),
            epochs,
            f"`{shards.manifest.hash}`",
        ]


def test_licences_are_those_of_the_documents(run):
    tables = [pq.read_table(run.parent / name / "documents.parquet") for name in "ab"]
    documents = sum(table.num_rows for table in tables)
    tokens = sum(sum(table["tokens"].to_pylist()) for table in tables)
    (line,) = (line for line in rows(card(run)) if line[0] == "unknown")
    assert line[1:] == [f"{documents:,}", f"{tokens:,}", "100.00 %"]


def test_losses_and_validation_are_those_before_the_checkpoint(run):
    text = card(run)
    assert "5.5000 in the first step, 5.2500 in the last one" in text
    assert ["a", "5.0000", "148.4132", "1,234"] in rows(text)
    assert "2 steps and 12,345 trained tokens" in text
    assert "Not for clinical use without validation" in text


def test_an_evaluation_is_shown_where_there_is_one(run, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(EVALUATION))
    found = rows(card(run, evaluation=path))
    assert ["after", "pubmed", "bits per byte", "0.9877"] in [line[:4] for line in found]
    assert ["after", "a\\|task", "acc", "0.2500"] in [line[:4] for line in found]
    assert "not been evaluated" in card(run)


def test_config_and_settings_can_be_read_back_and_name_no_folders(run):
    text = card(run)
    config = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert config["optimizer"]["learning_rate"] == 1e-3
    assert config["data"]["train"]["a"]["path"] == "a"
    assert json.loads(text.split("```json\n")[1].split("```")[0])["zero_optimization"]["stage"] == 3
    assert str(run.parent) not in text
