"""A GPT-2 from scratch with everything on: bf16, dropout, recomputed activations, loader processes, wandb."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from tests import tiny

EVERYTHING = {
    "model": {"config": tiny.GPT2 | {"resid_pdrop": 0.1, "embd_pdrop": 0.1}},
    "data__workers": 2,
    "training__steps": 8,
    "training__precision": "bf16",
    "training__activation_checkpointing": True,
    "training__validate_every": 4,
    "training__validation_sequences": 7,
    "checkpoint": {"every_steps": 4, "every_minutes": 1e-5, "keep": 10},
    "tracking": {"wandb": "offline"},
}


@pytest.fixture(scope="module")
def run(values, sets, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scratch")
    validation = {"b": str(sets["b"])}
    config = values(folder / "run", **EVERYTHING, data__validation=validation)
    ended = tiny.launch(tiny.write_config(folder / "run.yaml", config))
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder / "run"


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_first_loss_is_that_of_guessing(run):
    # Under a bare zero.Init, transformers' initialisation would be skipped: 89.8 instead of 6.9.
    assert tiny.losses(run)[1] == pytest.approx(math.log(257), abs=1.0)


def test_validation_stands_at_the_start_at_its_steps_and_at_the_end(run):
    validated = [line for line in lines(run) if "validation" in line]
    assert [line["step"] for line in validated] == [0, 4, 8]
    results = [line["validation"]["b"] for line in validated]
    assert results[-1]["loss"] < results[0]["loss"]
    assert all(r["perplexity"] == pytest.approx(math.exp(r["loss"])) for r in results)
    assert len({r["tokens"] for r in results}) == 1


def test_minutes_save_as_well_as_steps(run):
    # Every step takes longer than the 0.6 ms between checkpoints that the config asks for.
    saved = {path.name for path in (run / "checkpoints").glob("step-*")}
    assert saved == {f"step-{step:08d}" for step in range(1, 9)}
    assert (run / "checkpoints/latest").read_text() == "step-00000008\n"


@pytest.mark.long
def test_a_resume_draws_the_same_dropout_in_bf16(run, values, sets, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(run, again)
    for step in range(5, 9):
        shutil.rmtree(again / "checkpoints" / f"step-{step:08d}")
    (again / "status.json").unlink()
    config = values(again, **EVERYTHING, data__validation={"b": str(sets["b"])})
    ended = tiny.launch(tiny.write_config(tmp_path / "run.yaml", config))
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert tiny.losses(again) == tiny.losses(run)
    before = [line for line in lines(run) if "validation" in line]
    assert [line for line in lines(again) if "validation" in line] == before
    # Weights & Biases goes on in the same run.
    run_id = json.loads((run / "wandb.json").read_text())["id"]
    assert len(list((again / "wandb").glob(f"offline-run-*-{run_id}"))) == 2


def test_the_export_loads_offline_ties_its_weights_and_generates(run, tmp_path):
    output = tmp_path / "model"
    exported = subprocess.run(
        [sys.executable, str(tiny.ROOT / "launch/export.py"), "--run", run, "--output", output],
        env=tiny.ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert exported.returncode == 0, exported.stderr[-2000:]
    with safe_open(output / "model.safetensors", "pt") as weights:
        assert "lm_head.weight" not in weights.keys()  # noqa: SIM118 - it is no dict
    model = AutoModelForCausalLM.from_pretrained(output)
    assert model.lm_head.weight.data_ptr() == model.transformer.wte.weight.data_ptr()
    script = (
        "import sys; from transformers import AutoModelForCausalLM as M, AutoTokenizer as T\n"
        "m, t = M.from_pretrained(sys.argv[1]), T.from_pretrained(sys.argv[1])\n"
        "ids = t(['ab', 'abcd'], padding=True, return_tensors='pt').input_ids[1:]\n"
        "assert t.model_max_length == 64\n"
        "print(t.decode(m.generate(ids, max_new_tokens=5, do_sample=False)[0]))"
    )
    written = subprocess.run(
        [sys.executable, "-c", script, output],
        env=tiny.ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert written.stdout.startswith("abcd")
    assert len(written.stdout.strip()) > 4
