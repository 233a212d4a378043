"""One optimizer step: what is left out, what is reported, and that nothing else comes of it."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch.nn.functional import cross_entropy

from pretrain.engine.stopwatch import Stopwatch
from tests.pretrain.engine.engine_cases import Case, documents_of, model_of, run

# In that step the first row of the last rank has trained tokens.
BAD = {"bad_before": 2}
# With another case: the same but for what is named.
NO_NUMBER = [
    Case(precision="fp32", accumulation=4, **BAD),
    Case(precision="bf16", accumulation=1, **BAD),
    Case(precision="fp16", accumulation=4, scale_power=8, **BAD),
    Case(precision="bf16", accumulation=4, bad="gradient", **BAD),
]
PLAIN = Case("llama", lora=True, z_loss=0.0)
CHECKPOINTING = replace(PLAIN, checkpointing=True)
Z_LOSS = replace(PLAIN, z_loss=0.01)
RESUMED = Case("llama", accumulation=4, resume_before=2)
OVERFLOW = Case(precision="fp16", scale_power=20, steps=5)
AT_LOWEST = Case(precision="fp16", scale_power=24, lowest=True)
EVALUATED = Case("llama", accumulation=4, evaluate_first=3)
# With adapters, and without: with another case, the same but for the recomputing.
RECOMPUTED = {
    "adapters": (CHECKPOINTING, PLAIN),
    "whole": (
        replace(RESUMED, resume_before=None, checkpointing=True),
        replace(RESUMED, resume_before=None),
    ),
}
CASES = [
    *NO_NUMBER,
    *(replace(case, bad_before=None, bad="loss") for case in NO_NUMBER),
    PLAIN,
    CHECKPOINTING,
    Z_LOSS,
    RESUMED,
    replace(RESUMED, resume_before=None),
    OVERFLOW,
    AT_LOWEST,
    EVALUATED,
    RECOMPUTED["whole"][0],
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, communication_op):
    """What each case gave on two ranks, all of them in one job."""
    return dict(zip(CASES, run(tmp_path_factory.mktemp("engine"), CASES), strict=True))


def check_left_out(case: Case, with_it: dict, without: dict) -> None:
    bad = with_it["bad"]
    assert bad["finite"] is False
    assert bad["overflow"] is False
    # Of one rank's loss all ranks know; a gradient says nothing of it.
    assert math.isfinite(bad["loss"]) is (case.bad == "gradient")
    assert bad["gradient_norm"] == math.inf
    for key in ("steps", "validation", "counters"):
        assert with_it[key] == without[key], key  # every bit of it
    assert all(step["finite"] for step in with_it["steps"])


@pytest.mark.parametrize("case", NO_NUMBER, ids=str)
def test_after_a_step_that_was_no_number_on_one_rank_all_goes_on_as_if_it_had_not_been(
    case, outcomes
):
    check_left_out(case, outcomes[case], outcomes[replace(case, bad_before=None, bad="loss")])


@pytest.mark.long
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_step_that_is_no_number_is_left_out_whatever_precision_accumulation_and_offload(
    stage, communication_op, tmp_path
):
    cases = [
        Case(precision=precision, accumulation=accumulation, stage=stage, bad=bad, **BAD)
        for precision, accumulation, bad in product(("fp32", "bf16"), (1, 4), ("loss", "gradient"))
    ]
    cases += [
        Case(precision="fp16", stage=stage, scale_power=8, **BAD),
        Case(precision="bf16", stage=stage, offload=True, accumulation=4, **BAD),
        Case(precision="bf16", stage=stage, lora=True, **BAD),
    ]
    without = {replace(case, bad_before=None, bad="loss"): {} for case in cases}
    outcomes = list(run(tmp_path, [*cases, *without]))
    without = dict(zip(without, outcomes[len(cases) :], strict=True))
    for case, outcome in zip(cases, outcomes[: len(cases)], strict=True):
        check_left_out(case, outcome, without[replace(case, bad_before=None, bad="loss")])


@pytest.mark.parametrize(("case", "without"), RECOMPUTED.values(), ids=RECOMPUTED)
def test_activation_checkpointing_computes_layers_twice_and_changes_no_loss(
    case, without, outcomes
):
    found, expected = outcomes[case], outcomes[without]
    assert expected["attended"] == case.steps * case.accumulation
    assert found["attended"] == 2 * expected["attended"]
    for key in ("steps", "validation"):
        assert found[key] == expected[key]


def test_the_z_term_is_reported_apart_and_trained_on(outcomes):
    with_it, without = outcomes[Z_LOSS], outcomes[PLAIN]
    first, plain = with_it["steps"][0], without["steps"][0]
    model, squares, count = model_of(Z_LOSS), 0.0, 0
    for tokens, labels in documents_of(0):
        logits = model(tokens[None], use_cache=False).logits[0, :-1].double()
        trained = logits[labels[1:] != -100]
        squares += trained.logsumexp(-1).square().sum().item()
        count += len(trained)
    assert first["z_loss"] == pytest.approx(0.01 * squares / count, rel=1e-5)
    assert first["loss"] == pytest.approx(plain["loss"], rel=1e-6)
    assert plain["z_loss"] == 0.0
    assert first["gradient_norm"] != pytest.approx(plain["gradient_norm"], rel=1e-3)


def test_a_resumed_engine_has_the_moments_the_settings_and_the_losses(outcomes):
    resumed = outcomes[RESUMED]
    assert resumed["resumed"] == {"moments": True, "settings": True}
    assert resumed["steps"] == outcomes[replace(RESUMED, resume_before=None)]["steps"]


def test_weights_are_gathered_once_a_step_whatever_was_evaluated_before(outcomes):
    with_it, without = outcomes[EVALUATED], outcomes[replace(RESUMED, resume_before=None)]
    # The order is known from the second micro-batch on: the backward pass takes what is whole.
    for kept in (with_it["kept"], without["kept"]):
        assert len(kept) == 4 * 4 + 4  # those of the validation at the end as well
        assert kept[2:16] == [1.0] * 14
    assert with_it["steps"] == without["steps"]


def test_an_overflow_in_fp16_lowers_the_scale_and_is_no_error(outcomes):
    steps = outcomes[OVERFLOW]["steps"]
    number = sum(step["overflow"] for step in steps)
    assert 0 < number < len(steps)
    assert [step["overflow"] for step in steps] == [place < number for place in range(len(steps))]
    assert steps[0]["loss_scale"] == 2**19
    assert steps[-1]["loss_scale"] == 2 ** (20 - number)
    assert all(step["finite"] and math.isfinite(step["loss"]) for step in steps)
    assert all(math.isfinite(step["gradient_norm"]) is not step["overflow"] for step in steps)
    # The weights are those of the beginning until the first step that fits.
    model = model_of(OVERFLOW)
    for place in range(number + 1):
        documents = [(t, n) for t, n in documents_of(place) if len(t) > 1]
        count = sum(int((labels[1:] != -100).sum()) for _, labels in documents)
        with torch.no_grad():
            total = sum(
                cross_entropy(
                    model(tokens[None], use_cache=False).logits[0, :-1].float(),
                    labels[1:],
                    reduction="sum",
                )
                for tokens, labels in documents
            )
        assert steps[place]["loss"] == pytest.approx(float(total) / count, rel=1e-3)


def test_an_overflow_at_the_lowest_scale_ends_the_run_in_one_line(outcomes):
    found = outcomes[AT_LOWEST]
    assert found["steps"] == []
    assert found["error"].startswith("ProjectError: step 1: the gradient overflows fp16")
    assert "training.precision" in found["error"]
    assert "\n" not in found["error"]


def test_parts_of_a_name_add_up():
    watch = Stopwatch(torch.device("cpu"))
    for name in ("forward", "backward", "forward"):
        with watch.part(name):
            sum(range(1000))
    seconds = watch.seconds()
    assert list(seconds) == ["forward", "backward"]
    assert all(value > 0 for value in seconds.values())
