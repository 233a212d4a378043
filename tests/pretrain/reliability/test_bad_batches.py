"""A document that breaks the loss: the run names it, goes back, leaves it out, and goes on by itself.

The base model's embedding of one token is NaN, or huge; one document holds the token.
"""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pretrain.ledger import read_ledger
from tests import runs, tiny

TOKEN = 200  # in no document but one: the others hold bytes 97 to 104
STEPS = 16


@pytest.fixture(scope="module", params=[float("nan"), 300.0], ids=["nan", "huge"])
def broken_model(request, base_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("broken")
    model = AutoModelForCausalLM.from_pretrained(base_model)
    with torch.no_grad():
        model.get_input_embeddings().weight[TOKEN] = request.param
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory) -> Path:
    return tiny.shard_set(tmp_path_factory.mktemp("poisoned") / "a", 200, 0, odd=(40, TOKEN))


@pytest.fixture
def config(broken_model, poisoned, values, tmp_path):
    def make(name: str, **changes) -> Path:
        settings = {
            "model": {"path": str(broken_model)},
            "data__train": {"a": {"path": str(poisoned), "weight": 1}},
            "training__steps": STEPS,
            "phases": [],
            "checkpoint": {"every_steps": 4, "keep": 10},
            "guard": {"window": 8},
        }
        run = values(tmp_path / name, **(settings | changes))
        return tiny.write_config(tmp_path / f"{name}.yaml", run)

    return make


@pytest.mark.long
def test_the_run_leaves_the_batch_out_and_equals_one_that_never_had_it(config, tmp_path):
    mended = tiny.launch(config("mended"))
    assert mended.returncode == 0, mended.stderr[-3000:]
    run = tmp_path / "mended"
    skips = [entry for entry in read_ledger(run) if entry.event == "skip"]
    assert len(skips) == 1
    (spike,) = (run / "spikes").iterdir()
    assert "text:made-up#40" in spike.read_text()
    assert list(tiny.losses(run)) == list(range(1, STEPS + 1))

    # The same entry, made by hand before the first step.
    never = tmp_path / "never"
    never.mkdir()
    ledger = [line for line in (run / "ledger.jsonl").read_text().splitlines() if '"skip"' in line]
    (never / "ledger.jsonl").write_text("\n".join(ledger) + "\n")
    ended = tiny.launch(config("never"))
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert tiny.losses(never) == tiny.losses(run)
    assert not (never / "spikes").exists()


@pytest.mark.long
def test_after_so_many_rollbacks_the_run_stops_with_what_it_knows(config, tmp_path):
    ended = tiny.launch(config("stopped", guard={"window": 8, "max_rollbacks": 0}))
    assert ended.returncode != 0
    told = runs.status(tmp_path / "stopped")
    assert told["state"] == "failed"
    assert "guard.max_rollbacks" in told["reason"]
    spikes = list((tmp_path / "stopped/spikes").iterdir())
    assert len(spikes) == 1
    assert "text:made-up#40" in json.dumps(spikes[0].read_text())
