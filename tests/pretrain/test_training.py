"""What the trainer computes: the same as a plain PyTorch loop, on any number of ranks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from data_prep.shards.reader import ShardSet
from pretrain.export.config import ExportConfig
from pretrain.export.export import export
from pretrain.ledger import PhaseEntry
from pretrain.order.order import Order, SourceRows
from tests import tiny
from tests.pretrain.conftest import STEPS
from tests.pretrain.plain import documents_of_step
from tests.ranks import end, start
from tests.runs import copy_up_to


def plain_loop(base: Path, sets: list[ShardSet], steps: int) -> tuple[list[float], dict]:
    """One process, no packing, no DeepSpeed: each document alone, AdamW, clipping at 1."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=1e-3,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    named = zip(("a", "b"), sets, strict=True)
    rows = [SourceRows(name, of.row_groups) for name, of in named]
    phases = [PhaseEntry(8, {"a": 1, "b": 1}), PhaseEntry(14, None, 7)]
    order = Order(rows, [2, 1], 7, 5, 4, phases)
    losses = []
    for step in range(steps):
        pieces = documents_of_step(order, sets, step)
        count = sum(len(piece) - 1 for piece in pieces)
        total = torch.zeros(())
        for piece in pieces:
            tokens = torch.from_numpy(piece)[None]
            if tokens.shape[1] > 1:
                logits = model(tokens, use_cache=False).logits[0, :-1]
                total = total + cross_entropy(logits, tokens[0, 1:], reduction="sum")
        loss = total / count
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            # Warmup over 2 steps to 1e-3, then half a cosine to a tenth at the last step.
            progress = (step + 1 - 2) / (steps - 2)
            cosine = 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * progress))
            group["lr"] = 1e-3 * ((step + 1) / 2 if step < 2 else cosine)
        optimizer.step()
        losses.append(loss.item())
    return losses, model.state_dict()


def test_zero3_on_two_ranks_equals_a_plain_pytorch_loop(uninterrupted, base_model, sets, tmp_path):
    expected, weights = plain_loop(base_model, [ShardSet(sets[name]) for name in "ab"], STEPS)
    found = tiny.losses(uninterrupted)
    assert list(found) == list(range(1, STEPS + 1))
    assert list(found.values()) == pytest.approx(expected, rel=2e-5)
    export(ExportConfig(run=uninterrupted, output=tmp_path / "model"))
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    assert trained.keys() == weights.keys()
    for name, tensor in weights.items():
        # AdamW divides by the root of tiny second moments: early rounding shows as up to 1e-4.
        torch.testing.assert_close(trained[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("ranks", [1, pytest.param(3, marks=pytest.mark.long)])
def test_a_run_goes_on_with_the_same_losses_on_another_number_of_ranks(
    ranks, uninterrupted, values, tmp_path
):
    run = copy_up_to(uninterrupted, tmp_path / "run", 10)
    config = tiny.write_config(tmp_path / "run.yaml", values(run))
    ended = tiny.launch(config, ranks)
    assert ended.returncode == 0, ended.stderr[-3000:]
    expected, found = tiny.losses(uninterrupted), tiny.losses(run)
    assert found[11] == pytest.approx(expected[11], rel=1e-6)
    assert list(found.values()) == pytest.approx(list(expected.values()), rel=1e-4)
    resumed = [
        line
        for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        if line.get("event") == "resumed"
    ]
    assert [(line["step"], line["from_ranks"], line["ranks"]) for line in resumed] == [
        (10, 2, ranks)
    ]


def test_deterministic_changes_no_loss_and_timeout_minutes_is_the_process_groups(
    uninterrupted, values, tmp_path
):
    run, found = tmp_path / "run", tmp_path / "found.json"
    changes = {"training__deterministic": True, "timeout_minutes": 7.5}
    config = tiny.write_config(tmp_path / "run.yaml", values(run, **changes))
    command = ["-m", "tests.pretrain.settings_of_a_run", str(found), "--config", str(config)]
    end(start(command, 2))
    assert json.loads(found.read_text()) == {"deterministic": True, "timeout_s": 450}
    assert tiny.losses(run) == tiny.losses(uninterrupted)
