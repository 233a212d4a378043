"""A document that breaks the loss: the run names it, goes back, leaves it out, and goes on by itself.

One document is made of a token that no other holds. In one case the base model's embedding of it is NaN, in the
other nothing is wrong but that the model does not expect it: the loss jumps by more than a nat.
"""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pretrain.ledger import read_ledger
from tests import runs, tiny

TOKEN = 200  # in no document but one: the others hold bytes 97 to 104
DOCUMENT = 156  # of a whole row and more, the first of which stands in the batch of step 36
STEPS = 40


@pytest.fixture(scope="module", params=["nan", "unexpected"])
def broken_model(request, base_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("broken")
    model = AutoModelForCausalLM.from_pretrained(base_model)
    with torch.no_grad():
        if request.param == "nan":
            model.get_input_embeddings().weight[TOKEN] = float("nan")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory) -> Path:
    return tiny.shard_set(tmp_path_factory.mktemp("poisoned") / "a", 200, 0, odd=(DOCUMENT, TOKEN))


@pytest.fixture
def config(broken_model, poisoned, values, tmp_path):
    def make(name: str, **changes) -> Path:
        settings = {
            "model": {"path": str(broken_model)},
            "data__train": {"a": {"path": str(poisoned), "weight": 1}},
            "training__steps": STEPS,
            "optimizer__learning_rate": 2e-2,
            "phases": [],
            "checkpoint": {"every_steps": 10, "keep": 10},
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
    spikes = sorted((run / "spikes").iterdir())
    assert len(spikes) == len(skips) > 0  # the document's rows may stand in two batches
    assert all(f"text:made-up#{DOCUMENT}" in spike.read_text() for spike in spikes)
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
    assert f"text:made-up#{DOCUMENT}" in json.dumps(spikes[0].read_text())
