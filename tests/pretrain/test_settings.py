"""The effective DeepSpeed settings, the metrics file, the isolation test, the loss."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from data_prep.errors import ConfigError, DataError
from pretrain.config import Training
from pretrain.deepspeed_config import effective_config
from pretrain.isolation import check_isolation
from pretrain.loss import summed_loss
from pretrain.metrics import roll_back
from tests import tiny

TRAINING = Training(steps=1, global_batch=8, micro_batch=2, gradient_clipping=0.5)


def test_the_recipe_fills_in_what_the_json_leaves_out():
    settings = effective_config(tiny.ROOT / "configs/deepspeed/zero3.json", TRAINING, 4)
    assert settings["zero_optimization"]["stage"] == 3
    assert settings["train_micro_batch_size_per_gpu"] == 2
    assert settings["gradient_accumulation_steps"] == 4
    assert settings["gradient_clipping"] == 0.5
    assert settings["bf16"]["enabled"] is True
    assert settings["data_types"]["grad_accum_dtype"] == "fp32"


@pytest.mark.parametrize(
    ("json_text", "complaint"),
    [
        (
            '{"zero_optimization": {"stage": 3}, "gradient_clipping": 1.0}',
            "gradient_clipping: found 1.0",
        ),
        (
            '{"zero_optimization": {"stage": 3}, "bf16": {"enabled": false}}',
            "bf16.enabled: found False",
        ),
        ('{"zero_optimization": {"stage": "auto"}}', "zero_optimization.stage: found 'auto'"),
        ('{"zero_optimization": {"stage": 2}}', "zero_optimization.stage: found 2, expected 3"),
        ('{"zero_optimization": 3}', "zero_optimization: found 3, expected an object"),
        ('{"zero_optimization": {"stage": 3}, "optimizer": {}}', "optimizer: leave it out"),
        ("{", "line 1: not valid JSON"),
    ],
)
def test_a_value_given_twice_differently_is_refused(json_text, complaint, tmp_path):
    path = tmp_path / "zero.json"
    path.write_text(json_text)
    with pytest.raises(ConfigError, match=complaint):
        effective_config(path, TRAINING, 1)


def test_every_step_stands_once_in_the_metrics_after_a_roll_back(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": 0, "validation": {}}, {"step": 1}, {"step": 2}, {"step": 3}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "lo')
    assert roll_back(tmp_path, 1) == 2
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1]
    moved = tmp_path / "metrics.rolled-back.jsonl"
    assert [json.loads(line)["step"] for line in moved.read_text().splitlines()] == [2, 3]
    assert roll_back(tmp_path, 1) == 0


@pytest.fixture(params=["gpt2", "llama"])
def model(request):
    settings = dict(tiny.GPT2 if request.param == "gpt2" else tiny.LLAMA)
    torch.manual_seed(0)
    config = AutoConfig.for_model(settings.pop("model_type"), vocab_size=257, **settings)
    return AutoModelForCausalLM.from_config(config).eval()


def test_the_start_up_test_tells_isolation_from_leakage(model):
    def isolated(tokens, positions):
        return model(tokens, position_ids=positions, use_cache=False).logits

    def leaking(tokens, positions):
        mask = torch.ones_like(tokens)  # with a mask, transformers no longer sees the documents
        return model(tokens, position_ids=positions, attention_mask=mask, use_cache=False).logits

    def of_first_row(tokens, positions):
        if len(tokens) > 1:  # as flash attention does: documents are seen in a batch of one only
            positions = torch.arange(tokens.shape[1]).expand_as(tokens)
        return isolated(tokens, positions)

    cpu = torch.device("cpu")
    assert check_isolation(isolated, "document", 257, cpu) < 1e-6
    assert check_isolation(of_first_row, "document", 257, cpu) < 1e-6
    with pytest.raises(DataError, match="does not isolate"):
        check_isolation(of_first_row, "document", 257, cpu, rows=2)
    assert check_isolation(isolated, "sequence", 257, cpu) > 1e-4
    with pytest.raises(DataError, match="does not isolate"):
        check_isolation(leaking, "document", 257, cpu)


def test_the_loss_is_the_sum_over_trained_tokens_and_zero_without_one():
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 11, requires_grad=True)
    labels = torch.tensor([[1, 2, -100, 4, 5], [-100, 7, 8, -100, 10]])
    expected = torch.zeros(())
    for row in range(2):
        for t in range(1, 5):
            if labels[row, t] != -100:
                probabilities = logits[row, t - 1].double().softmax(-1)
                expected = expected - probabilities[labels[row, t]].log()
    torch.testing.assert_close(summed_loss(logits, labels).double(), expected.double())

    nothing = summed_loss(logits, torch.full_like(labels, -100))
    nothing.backward()
    assert nothing.item() == 0.0
    assert logits.grad is not None
    assert logits.grad.abs().max().item() == 0.0
