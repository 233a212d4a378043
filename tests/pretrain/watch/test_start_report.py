"""What a run says at its start, and of each step."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pretrain.config import RunConfig
from pretrain.plan import Plan, make_plan, rows_of_epoch
from pretrain.watch.display import Pace, clock
from pretrain.watch.flops import Speed
from pretrain.watch.start_report import Built, look_at, report_facts, report_warnings
from pretrain.watch.step_line import step_line
from tests import tiny

LENGTH = 32


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sets")
    return {"a": tiny.shard_set(folder / "a", 200, 0), "b": tiny.shard_set(folder / "b", 80, 1)}


def planned(folder: Path, sets: dict[str, Path], **changes: Any) -> tuple[RunConfig, Plan]:
    config = RunConfig.model_validate(tiny.run_config(folder, sets, **changes))
    return config, make_plan(config, 2)


def module() -> Any:
    settings = dict(tiny.GPT2)
    config = AutoConfig.for_model(settings.pop("model_type"), vocab_size=257, **settings)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


def built(config: RunConfig, plan: Plan, **changes: Any) -> Built:
    found = look_at(module(), config, plan, torch.device("cpu"), 2)
    return Built(**vars(found) | changes)


def test_the_report_says_what_the_run_will_do(tmp_path, sets):
    config, plan = planned(tmp_path, sets, training__global_batch=6, training__micro_batch=2)
    speed = Speed(flops_per_token=1e9, peak=2e12)
    facts = report_facts(config, plan, built(config, plan, speed=speed), 2, step=2)
    # 12 d^2 weights and 13 d biases and norms in each of two layers, embeddings, the last norm
    weights = 2 * (12 * 32**2 + 13 * 32) + (257 + 64) * 32 + 2 * 32
    assert facts["parameters"] == facts["trained parameters"] == weights
    assert facts["batch"] == "6 sequences x 32 tokens = 192 tokens a step"
    assert facts["ranks"] == "2, each 3 sequences in 2 micro-batches of 2"
    assert facts["tokens to see"] == 4 * 6 * LENGTH  # of six steps two are done
    days = 4 * 6 * LENGTH * 1e9 / (0.4 * 2e12) / 86400
    assert facts["time to go"] == f"about {days:,.1f} days, if the MFU is 40%"
    assert facts["ZeRO"] == "stage 3"
    assert facts["optimizer"] == "adamw, learning rate 0.001, cosine"
    assert facts["attention"].endswith("(tested on this model), sdpa")
    assert facts["memory of a rank"].startswith("about 0.0 GB (")
    assert facts["goes on from"] == "step 2"


def test_without_a_known_peak_no_time_is_made_up(tmp_path, sets):
    config, plan = planned(tmp_path, sets)
    facts = report_facts(config, plan, built(config, plan), 2, step=0)
    assert facts["time to go"] == "shown after the first steps"


def test_what_will_not_fit_is_said_before_the_first_step(tmp_path, sets):
    config, plan = planned(tmp_path, sets)
    speed = Speed(1.0, 1.0)
    card = {"device": "NVIDIA A10", "speed": speed, "attention": "varlen"}
    needed = sum(built(config, plan).memory.device.values())
    fits = built(config, plan, device_memory=needed, **card)
    assert report_warnings(config, plan, fits, 2, 0) == []
    (line,) = report_warnings(
        config, plan, built(config, plan, device_memory=needed - 1, **card), 2, 0
    )
    assert line.startswith("warning: a rank needs about ")
    assert "its NVIDIA A10 has " in line


def test_few_tokens_a_step_are_warned_of_where_a_model_is_gone_on_with(tmp_path, sets):
    (tmp_path / "base").mkdir()
    changes: dict[str, Any] = {"model": {"path": str(tmp_path / "base")}}
    config, plan = planned(tmp_path, sets, **changes)
    (line,) = report_warnings(config, plan, built(config, plan), 2, 0)
    assert line.startswith("warning: 128 tokens a step are few to go on with a model")
    enough = -(-250_000 // LENGTH)
    config, plan = planned(tmp_path, sets, training__global_batch=enough, **changes)
    warnings = report_warnings(config, plan, built(config, plan), 2, 0)
    assert not any("are few to" in line for line in warnings)


def test_a_batch_larger_than_its_data_and_a_group_of_all_ranks_are_warned_of(tmp_path, sets):
    config, plan = planned(tmp_path, sets)
    there = sum(map(rows_of_epoch, plan.train.values()))
    config, plan = planned(tmp_path, sets, training__global_batch=there)
    assert report_warnings(config, plan, built(config, plan), 2, 0) == []
    config, plan = planned(
        tmp_path,
        sets,
        training__global_batch=there + 1,
        deepspeed=str(tiny.ROOT / "configs/deepspeed/zero3-hpz.json"),
    )
    first, second = report_warnings(config, plan, built(config, plan), 2, 0)
    assert first.startswith(f"warning: a step reads {there + 1} sequences")
    assert second.startswith("warning: zero_hpz_partition_size is 8, and there are 2 ranks")
    assert len(report_warnings(config, plan, built(config, plan), 16, 0)) == 1


def test_a_hang_that_the_process_group_would_meet_first_is_warned_of(tmp_path, sets):
    config, plan = planned(tmp_path, sets, guard={"hang_minutes": 30}, timeout_minutes=30)
    (line,) = report_warnings(config, plan, built(config, plan), 2, 0)
    assert line.startswith("warning: guard.hang_minutes is 30")


def test_a_phase_that_never_begins_is_warned_of(tmp_path, sets):
    config, plan = planned(tmp_path, sets)
    phases = [
        {"from_step": plan.steps - 1, "global_batch": 4},
        {"from_step": plan.steps, "global_batch": 8},
    ]
    config, plan = planned(tmp_path, sets, phases=phases)
    (line,) = report_warnings(config, plan, built(config, plan), 2, 0)
    assert line.startswith(f"warning: phases.1.from_step is {plan.steps}, and the run ends")


def test_a_mask_on_a_gpu_is_warned_of(tmp_path, sets):
    config, plan = planned(tmp_path, sets)
    card: dict[str, Any] = {"device_memory": 10**12, "speed": Speed(1.0, 1.0)}
    (line,) = report_warnings(config, plan, built(config, plan, attention="sdpa", **card), 2, 0)
    assert line.startswith(f"warning: attention by sdpa makes a mask of {LENGTH} x {LENGTH}")
    assert (
        report_warnings(config, plan, built(config, plan, attention="varlen", **card), 2, 0) == []
    )
    config, plan = planned(tmp_path, sets, data__attention="sequence")
    assert report_warnings(config, plan, built(config, plan, attention="sdpa", **card), 2, 0) == []


def test_a_card_of_unknown_peak_is_named_once(tmp_path, sets):
    config, plan = planned(tmp_path, sets)
    card: dict[str, Any] = {"device": "Some Card", "device_memory": 10**12}
    unknown = built(config, plan, attention="varlen", **card)
    (line,) = report_warnings(config, plan, unknown, 2, 0)
    assert line.startswith("the peak of Some Card in fp32 is not known here")


def result(**changes: Any) -> Any:
    """As the engine's StepResult."""
    values = {"loss": 2.5, "gradient_norm": 0.5, "seconds": 3.0, "z_loss": 0.0, "loss_scale": None}
    parts = {"forward": 1.0, "backward": 1.5, "step": 0.5}
    return SimpleNamespace(**values | {"parts": parts} | changes)


def line_of(plan: Plan, step: int, speed: Speed, **changes: Any) -> dict[str, Any]:
    return step_line(
        plan,
        speed,
        result(**changes),
        step=step,
        rate=1e-4,
        waited=1.0,
        trained_tokens=100,
        total_tokens=300,
        rows={"a": 2, "b": 2},
        sequences={"a": 7, "b": 5},
        memory=5 * 10**8,
        overflows=3,
    )


def test_a_steps_line_adds_up(tmp_path, sets):
    _, plan = planned(tmp_path, sets)
    line = line_of(plan, 3, Speed(flops_per_token=1e6, peak=64e6))
    json.dumps(line)
    assert line["seconds"] == sum(line["seconds_in"].values()) == 4.0
    # 4 sequences in 4 seconds
    assert line["tokens_per_second"] == LENGTH
    assert line["model_flops_per_second"] == LENGTH * 1e6
    assert line["mfu"] == 0.5
    assert line["memory_gb"] == 0.5
    assert line["tokens"] == {"a": 7 * LENGTH, "b": 5 * LENGTH}
    assert not {"z_loss", "loss_scale", "overflows"} & set(line)
    assert "mfu" not in line_of(plan, 3, Speed(1e6, None))
    assert "model_flops_per_second" not in line_of(plan, 3, Speed(None, None))


def test_fp16_and_the_z_loss_have_their_keys(tmp_path, sets):
    _, plan = planned(tmp_path, sets)
    line = line_of(plan, 1, Speed(None, None), z_loss=0.01, loss_scale=1024.0)
    assert (line["z_loss"], line["loss_scale"], line["overflows"]) == (0.01, 1024.0, 3)


def test_the_time_left_follows_the_last_steps_and_what_lay_between(tmp_path):
    pace = Pace(steps=1000)
    assert pace.left(1, now=10.0, seconds=2.0) == 999 * 2.0
    assert pace.left(2, now=14.0, seconds=2.0) == 998 * 4.0  # a checkpoint took two of the four
    for step in range(3, 500):
        left = pace.left(step, now=14.0 + 3 * (step - 2), seconds=3.0)
    assert left == pytest.approx((1000 - 499) * 3.0)
    # gone back to a checkpoint: a new beginning
    assert pace.left(400, now=2000.0, seconds=3.0) == 600 * 3.0


def test_long_times_are_told_in_days():
    assert clock(3 * 86400 + 4 * 3600 + 5 * 60 + 6) == "3 d 4:05:06"
    assert clock(59.6) == "0:01:00"
