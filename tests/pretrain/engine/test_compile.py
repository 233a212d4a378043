"""training.compile changes speed only, and a run goes on with or without it."""

import os

import pytest

from data_prep.errors import ConfigError
from pretrain.engine.compilation import check_compiler
from tests import tiny


def test_a_machine_without_a_compiler_is_told_in_one_line(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        ConfigError, match=r"training\.compile: .* found no no-such-compiler; install"
    ):
        check_compiler()


@pytest.mark.long
@pytest.mark.parametrize("model", [tiny.GPT2, tiny.LLAMA], ids=["gpt2", "llama"])
def test_a_compiled_run_has_the_losses_of_one_that_is_not_and_resumes(model, sets, tmp_path):
    changes = {
        "model__config": {**model, "scale_attn_by_inverse_layer_idx": True}
        if model is tiny.GPT2
        else model,
        "model__implementation": "varlen",
        "training__activation_checkpointing": model is tiny.LLAMA,
        "checkpoint": {"every_steps": 3},
    }
    train = {"a": sets["a"]}
    plain = tiny.write_config(
        tmp_path / "plain.yaml", tiny.run_config(tmp_path / "plain", train, **changes)
    )
    ended = tiny.run_alone(plain)
    assert ended.returncode == 0, ended.stderr[-3000:]
    run = tmp_path / "run"
    config = tiny.write_config(tmp_path / "run.yaml", tiny.run_config(run, train, **changes))
    options = ("pretrain", "--training.compile", "true", "--accept_changes", "true")
    ended = tiny.run_alone(config, *options, TORCH_LOGS="recompiles")
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "recompile_limit" not in ended.stderr
    assert tiny.losses(run) == pytest.approx(tiny.losses(tmp_path / "plain"), abs=1e-4)
    # However many documents of whatever length a batch has, what has been compiled serves it.
    assert "Recompiling" not in ended.stderr.partition("checkpoint step-00000003")[2]
    # The last three steps are lost, and done again.
    os.rename(run / "checkpoints/step-00000006", run / "checkpoints/lost")
    (run / "status.json").unlink()
    ended = tiny.run_alone(config, *options)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert tiny.losses(run) == pytest.approx(tiny.losses(tmp_path / "plain"), abs=1e-4)
