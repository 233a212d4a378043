"""A run that goes on with 1 rank instead of 2, and with 2 again: the same losses, whole models and adapters."""

import json
import signal

import pytest

from tests import runs, tiny

pytestmark = pytest.mark.long
LORA = {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj"]}


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "lora"])
@pytest.mark.parametrize(
    "stages", [("zero3",) * 3, ("zero3", "zero1", "zero2")], ids=lambda s: s[1]
)
def test_two_ranks_then_one_then_two_lose_nothing(lora, stages, values, base_model, tmp_path):
    changes = {"model": {"path": str(base_model), "lora": lora}, "training__steps": 36}
    whole = tiny.write_config(tmp_path / "whole.yaml", values(tmp_path / "whole", **changes))
    ended = tiny.launch(whole)
    assert ended.returncode == 0, ended.stderr[-3000:]

    run = tmp_path / "run"
    config = tiny.write_config(tmp_path / "run.yaml", values(run, **changes))
    for ranks, stage, until in zip((2, 1, 2), stages, (8, 18, None), strict=True):
        settings = str(tiny.ROOT / f"configs/deepspeed/{stage}.json")
        process = runs.start(config, ranks, "--deepspeed", settings)
        if until is not None:
            tiny.wait_for(lambda u=until: runs.last_step(run) >= u)
            tiny.kill(tiny.rank_processes(config)[:1], signal.SIGTERM)
        said = runs.end(process, config)
        assert runs.status(run)["state"] == ("interrupted" if until else "done"), said[-3000:]
    expected, found = tiny.losses(tmp_path / "whole"), tiny.losses(run)
    assert list(found) == list(expected)
    assert list(found.values()) == pytest.approx(list(expected.values()), rel=1e-4)
    resumed = [line for line in runs.lines(run) if line.get("event") == "resumed"]
    assert [(line["from_ranks"], line["ranks"]) for line in resumed] == [(2, 1), (1, 2)]
    for line in resumed:  # the first step after each is as it would have been
        assert found[line["step"] + 1] == pytest.approx(expected[line["step"] + 1], rel=1e-5)


def test_adapters_go_on_with_another_seed_on_another_number_of_ranks(values, base_model, tmp_path):
    """Frozen weights come from the base model, whatever the seed would have drawn."""
    changes = {"model": {"path": str(base_model), "lora": LORA}, "phases": []}
    first = tmp_path / "first"
    begun = changes | {"training__steps": 20, "checkpoint": {"every_steps": 10, "keep": 10}}
    config = tiny.write_config(tmp_path / "first.yaml", values(first, **begun))
    assert tiny.launch(config).returncode == 0
    found = {}
    for ranks in (2, 1):
        run = runs.copy_up_to(first, tmp_path / f"on {ranks}", 10)
        config = tiny.write_config(tmp_path / f"{ranks}.yaml", values(run, **begun, seed=9))
        ended = tiny.launch(config, ranks, "pretrain", "--accept_changes", "true")
        assert ended.returncode == 0, ended.stderr[-3000:]
        found[ranks] = list(tiny.losses(run).values())
    assert found[1] == pytest.approx(found[2], rel=1e-4)
    before = tiny.losses(first)
    assert found[1][:10] == list(before.values())[:10]

    # Once more, at a rate that moves nothing: what the model says after step 11 is what it said before.
    still = begun | {"training__steps": 11, "optimizer__learning_rate": 1e-30}
    run = runs.copy_up_to(first, tmp_path / "still", 10)
    config = tiny.write_config(tmp_path / "still.yaml", values(run, **still, seed=9))
    ended = tiny.run_alone(config, "pretrain", "--accept_changes", "true")
    assert ended.returncode == 0, ended.stderr[-3000:]
    state = "checkpoints/step-{:08d}/state.json"
    after, said = (json.loads((run / state.format(step)).read_text())["probe"] for step in (11, 10))
    assert after == pytest.approx(said, abs=2e-6)
