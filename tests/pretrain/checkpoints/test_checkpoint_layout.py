"""Going on with another number of ranks, ZeRO stage, precision or offload: the state is the same, to the bit.

What is compared are weights and moments as DeepSpeed itself gives them whole, and the losses.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.files import read_json
from tests.pretrain.checkpoints import zero_runs

EXACT = 0.0  # tolerance of losses where the layout is the same
State = dict[str, dict[str, torch.Tensor]]
Outcome = dict[str, Any]
OFFLOAD = {"stage": 3, "offload_optimizer": {"device": "cpu"}}
DIVIDED = {"stage": 3, "stage3_param_persistence_threshold": 0}  # even these small weights
LAYOUTS: dict[str, dict[str, Any]] = {
    "stage 3 on 2": {"world": 2, "zero": {"stage": 3}},
    "stage 3 on 1, small groups": {"world": 1, "zero": {"stage": 3, "sub_group_size": 5000}},
    "stage 2 on 2": {"world": 2, "zero": {"stage": 2}},
    "stage 1 on 1": {"world": 1, "zero": {"stage": 1}},
    "stage 1 on 2": {"world": 2, "zero": {"stage": 1}},
    "offload on 1": {"world": 1, "zero": OFFLOAD, "offload": True},
    "offload of stage 2 on 1": {"world": 1, "zero": OFFLOAD | {"stage": 2}, "offload": True},
    "hpz on 2": {"world": 2, "zero": {"stage": 3, "zero_hpz_partition_size": 2}},
    "divided on 4": {"world": 4, "zero": DIVIDED},
    "hpz of 2 on 4": {"world": 4, "zero": DIVIDED | {"zero_hpz_partition_size": 2}},
}


def check_the_same(before: State, after: State) -> None:
    assert before.keys() == after.keys()
    for name, tensors in before.items():
        for key, tensor in tensors.items():
            assert tensor.equal(after[name][key]), f"{key} of {name}"


def check(
    folder: Path, saved: dict[str, Any], now: dict[str, Any], tolerance: float
) -> tuple[Outcome, Outcome]:
    """A run that saves as `saved` and goes on as `now` does what it does where nothing changes; both runs."""
    before = zero_runs.run(folder, "before", do=[3, "save", 4], **saved)
    after = zero_runs.run(folder, "after", do=[4], **now)
    check_the_same(before["saved"], after["loaded"])
    expected = {step: loss for step, loss in before["losses"].items() if step > 3}
    assert list(after["losses"]) == [4, 5, 6, 7]
    if tolerance < 1e-2:
        assert after["losses"][4] == pytest.approx(expected[4], rel=1e-6)
    assert after["losses"] == pytest.approx(expected, rel=tolerance)
    return before, after


@pytest.mark.long
def test_stage_3_on_two_ranks_goes_on_as_stage_1_on_one_and_back(tmp_path):
    here, there = LAYOUTS["stage 3 on 2"], LAYOUTS["stage 1 on 1"]
    before = zero_runs.run(tmp_path, "before", do=[3, "save", 3], **here)
    after = zero_runs.run(tmp_path, "after", do=[2, "save"], **there)
    back = zero_runs.run(tmp_path, "back", do=[1], **here)
    assert read_json(tmp_path / "checkpoints/step-00000003/state.json")["layout"] == {
        "world": 2,
        "stage": 3,
        "precision": "fp32",
        "optimizer": "adamw",
        "offload_optimizer": "none",
        "offload_parameters": "none",
    }
    losses = {step: loss for step, loss in before["losses"].items() if step > 3}
    check_the_same(before["saved"], after["loaded"])
    check_the_same(after["saved"], back["loaded"])
    assert after["losses"][4] == pytest.approx(losses[4], rel=1e-6)
    assert after["losses"] | back["losses"] == pytest.approx(losses, rel=1e-4)


CHANGES = [
    ("stage 3 on 2", "stage 1 on 1"),
    ("stage 1 on 2", "stage 3 on 1, small groups"),
    ("stage 3 on 1, small groups", "stage 2 on 2"),
    ("stage 2 on 2", "stage 3 on 2"),
    ("stage 3 on 2", "hpz on 2"),
    ("hpz on 2", "stage 3 on 1, small groups"),
    ("hpz of 2 on 4", "stage 3 on 2"),
    ("offload on 1", "stage 3 on 2"),
    ("stage 1 on 2", "offload on 1"),
    ("stage 3 on 2", "offload of stage 2 on 1"),
]


@pytest.mark.long
@pytest.mark.parametrize(("saved", "now"), CHANGES)
def test_every_change_of_layout_keeps_weights_and_moments(saved, now, tmp_path):
    check(tmp_path, LAYOUTS[saved], LAYOUTS[now], 1e-4)


@pytest.mark.long
@pytest.mark.parametrize(
    ("saved", "now"),
    [("stage 3 on 2", "stage 1 on 1"), ("stage 1 on 2", "stage 3 on 1, small groups")],
)
def test_changes_of_layout_in_bf16(saved, now, tmp_path):
    half = {"precision": "bf16"}
    check(tmp_path, LAYOUTS[saved] | half, LAYOUTS[now] | half, 1e-2)


@pytest.mark.long
@pytest.mark.parametrize(
    ("saved", "now"),
    [
        ("stage 3 on 2", "stage 3 on 2"),
        ("stage 1 on 2", "stage 1 on 2"),
        ("stage 3 on 2", "stage 1 on 1"),
        ("stage 1 on 2", "stage 3 on 1, small groups"),
    ],
)
def test_fp16_goes_on_with_its_loss_scale_and_where_that_stood_in_its_window(saved, now, tmp_path):
    half = {"precision": "fp16"}
    tolerance = EXACT if saved == now else 1e-2
    before, after = check(tmp_path, LAYOUTS[saved] | half, LAYOUTS[now] | half, tolerance)
    scales = list(before["scales"].values())
    assert scales == [2.0**power for power in (12, 12, 13, 13, 14, 14, 15)]
    assert list(after["scales"].values()) == scales[3:]


@pytest.mark.long
def test_zero_plus_plus_in_two_groups_has_zero_3s_losses_and_those_again_after_a_resume(tmp_path):
    groups = LAYOUTS["hpz of 2 on 4"]
    before, _ = check(tmp_path, groups, groups, EXACT)
    plain = zero_runs.run(tmp_path / "plain", "run", do=[7], **LAYOUTS["divided on 4"])
    assert before["losses"] == plain["losses"]
    check_the_same(before["end"], plain["end"])
    # Of a backward pass, each group has all weights: a half on each of its ranks, but for the padding.
    assert before["kept"] == pytest.approx(1 / 2, rel=1e-2)
    assert plain["kept"] == 0.0


@pytest.mark.long
def test_a_run_in_bf16_goes_on_in_fp32_with_the_fp32_weights_it_had(tmp_path):
    saved = LAYOUTS["stage 1 on 2"] | {"precision": "bf16"}
    check(tmp_path, saved, LAYOUTS["stage 3 on 2"], 1e-2)


@pytest.mark.long
def test_lion_s_one_moment_goes_on_in_another_layout(tmp_path):
    saved = LAYOUTS["offload on 1"] | {"optimizer": "lion"}
    now = LAYOUTS["offload of stage 2 on 1"] | {"optimizer": "lion"}
    check(tmp_path, saved, now, 1e-4)


@pytest.mark.long
def test_frozen_weights_stay_those_of_the_base_model(tmp_path):
    """The base model is drawn from a seed of its own here; only what is trained is in the checkpoint."""
    partly = {"frozen": ["wte", "wpe", "h.0"]}
    check(tmp_path, LAYOUTS["stage 3 on 2"] | partly, LAYOUTS["stage 1 on 1"] | partly, 1e-4)
    size = sum(path.stat().st_size for path in (tmp_path / "checkpoints/step-00000003").iterdir())
    manifest = json.loads((tmp_path / "checkpoints/step-00000003/state.json").read_text())
    assert size < 16 * manifest["parameters"] + 200_000


@pytest.mark.long
def test_a_checkpoint_of_other_parameters_is_refused_in_one_line(tmp_path):
    zero_runs.run(tmp_path, "all", do=[1, "save"], **LAYOUTS["stage 1 on 1"])
    task = {key: value for key, value in LAYOUTS["stage 1 on 1"].items() if key != "world"}
    told = zero_runs.failure(tmp_path, "fewer", do=[1], frozen=["wpe"], **task)
    assert "transformer.wpe.weight has no elements, not 2048 (1 differ)" in told


@pytest.mark.long
@pytest.mark.parametrize(
    "layout", ["stage 3 on 2", "stage 2 on 2", "stage 1 on 1", "hpz of 2 on 4"]
)
def test_a_roll_back_in_mid_run_is_as_good_as_a_new_start(layout, tmp_path):
    whole = zero_runs.run(tmp_path, "whole", do=[2, "save", 3], **LAYOUTS[layout])
    rolled = zero_runs.run(
        tmp_path / "rolled", "run", do=[2, "save", 2, "roll back", 3], **LAYOUTS[layout]
    )
    assert rolled["losses"] == whole["losses"]
    check_the_same(whole["end"], rolled["end"])


@pytest.mark.long
@pytest.mark.parametrize("layout", ["stage 3 on 2", "stage 1 on 1"])
def test_a_roll_back_to_before_the_first_step_is_a_new_beginning(layout, tmp_path):
    rolled = zero_runs.run(tmp_path, "run", do=["save", 2, "roll back", 2], **LAYOUTS[layout])
    anew = zero_runs.run(tmp_path / "anew", "run", do=[2], **LAYOUTS[layout])
    assert rolled["losses"] == anew["losses"]
    check_the_same(anew["end"], rolled["end"])
