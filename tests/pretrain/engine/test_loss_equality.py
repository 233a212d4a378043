"""Engine on two ranks gives the losses and gradients of a plain PyTorch loop, each document alone."""

from dataclasses import replace
from itertools import product

import pytest

from tests.pretrain.engine.engine_cases import Case, documents_of, model_of, run
from tests.pretrain.plain import plain_losses, rates

STEPS = 4
# Measured 1e-7, 1e-3 and 5e-5 of the loss, 2e-7, 5e-3 and 2e-4 of the norm: a bf16 number has 3 digits.
LOSS_TOLERANCE = {"fp32": 2e-6, "bf16": 3e-3, "fp16": 3e-4}
NORM_TOLERANCE = {"fp32": 5e-6, "bf16": 2e-2, "fp16": 1e-3}
DIAGONAL = [
    Case("gpt2", False, "fp32", 4),
    Case("llama", True, "fp32", 1),
    Case("gpt2", True, "bf16", 4),
    Case("llama", False, "bf16", 1),
    Case("llama", False, "fp16", 4),
    Case("gpt2", False, "fp32", 1, stage=2),
    Case("gpt2", False, "bf16", 4, stage=1),
    Case("gemma2", False, "fp32", 4),
]
MATRIX = [
    Case(family, lora, precision, accumulation)
    for family, lora, precision, accumulation in product(
        ("gpt2", "llama"), (False, True), ("fp32", "bf16"), (1, 4)
    )
]


@pytest.fixture(scope="module")
def plain():
    """(loss, norm) of each step by plain PyTorch, for a family, with or without LoRA, in a precision."""
    found = {}

    def of(case: Case):
        key = (case.family, case.lora, case.precision)
        if key not in found:
            batches = map(documents_of, range(STEPS))
            found[key] = plain_losses(model_of(case), batches, rates())
        return found[key]

    return of


def check(case: Case, outcome: dict, expected: list[tuple[float, float]]) -> None:
    losses = [step["loss"] for step in outcome["steps"]]
    norms = [step["gradient_norm"] for step in outcome["steps"]]
    assert outcome["by_chunks"] is (case.family != "gemma2")
    assert losses[-1] < losses[0]  # or a gradient of nothing would pass
    assert losses == pytest.approx(
        [loss for loss, _ in expected], rel=LOSS_TOLERANCE[case.precision]
    )
    assert norms == pytest.approx(
        [norm for _, norm in expected], rel=NORM_TOLERANCE[case.precision]
    )


def test_every_stage_and_precision_gives_the_losses_of_a_plain_loop(
    plain, communication_op, tmp_path
):
    cases = [replace(case, steps=STEPS) for case in DIAGONAL]
    for case, outcome in zip(cases, run(tmp_path, cases), strict=True):
        check(case, outcome, plain(case))


@pytest.mark.long
def test_all_of_gpt2_and_llama_full_and_lora_fp32_and_bf16_accumulation_1_and_4_equal_a_plain_loop(
    plain, communication_op, tmp_path
):
    cases = [replace(case, steps=STEPS) for case in MATRIX]
    outcomes = list(run(tmp_path, cases))
    for case, outcome in zip(cases, outcomes, strict=True):
        check(case, outcome, plain(case))
    # Neighbours differ in nothing but the number of micro-batches.
    for case, at_once, in_four in zip(cases[::2], outcomes[::2], outcomes[1::2], strict=True):
        losses = [[step["loss"] for step in outcome["steps"]] for outcome in (at_once, in_four)]
        assert losses[0] == pytest.approx(losses[1], rel=LOSS_TOLERANCE[case.precision])
