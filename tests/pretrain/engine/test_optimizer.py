"""Each optimizer against its definition, alone and under ZeRO, and its settings through checkpoints."""

import pytest
import torch

from pretrain.config import Optimizer
from pretrain.engine.optimizer import Lion, build_optimizer, parameter_groups, set_learning_rate
from tests import tiny
from tests.pretrain.engine import zero_process

PLAIN = {"zero_optimization": {"stage": 3}}
ADAMW = {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1}
LION = {"name": "lion", "learning_rate": 3e-4, "betas": (0.9, 0.99), "weight_decay": 0.3}
MUON = {"name": "muon", "learning_rate": 1e-2, "weight_decay": 0.1}
FILES = {"adamw": "zero3.json", "lion": "zero3.json", "muon": "zero3-muon.json"}


def plain_losses(optimizers: list[torch.optim.Optimizer], model, steps: int = 4) -> list[float]:
    """Whole batches in one process, without DeepSpeed."""
    losses = []
    for step in range(steps):
        tokens = zero_process.batch(step)
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        losses.append(loss.item())
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return losses


def test_lion_equals_its_papers_update():
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(3, 5)), torch.nn.Parameter(torch.randn(4))]
    ours = Lion(parameters, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    weights = [parameter.detach().double() for parameter in parameters]
    moments = [torch.zeros_like(weight) for weight in weights]
    for step in range(1, 11):
        rate = 1e-3 * step
        set_learning_rate(ours, rate)
        for number, parameter in enumerate(parameters):
            gradient = torch.randn(parameter.shape)
            gradient[0] = 0.0  # as of a token that does not occur: sign(0) is 0
            parameter.grad = gradient
            # Chen et al. 2023, algorithm 2
            update = torch.sign(0.9 * moments[number] + 0.1 * gradient.double())
            weights[number] = weights[number] - rate * (update + 0.1 * weights[number])
            moments[number] = 0.99 * moments[number] + 0.01 * gradient.double()
        ours.step()
        for parameter, weight in zip(parameters, weights, strict=True):
            torch.testing.assert_close(parameter.detach().double(), weight, rtol=1e-6, atol=1e-6)


def test_matrices_decay_and_vectors_and_frozen_weights_do_not():
    model = zero_process.model()
    model.lm_head.weight.requires_grad = False
    groups = parameter_groups(model, Optimizer(learning_rate=1e-3, weight_decay=0.1))
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert {parameter.ndim for parameter in groups[0]["params"]} == {2}
    assert {parameter.ndim for parameter in groups[1]["params"]} == {1}
    count = sum(len(group["params"]) for group in groups)
    assert count == len(list(model.parameters())) - 1


@pytest.mark.parametrize("tied", [True, False])
def test_muon_leaves_embeddings_head_and_vectors_to_adamw(tied):
    model = zero_process.model(tie_word_embeddings=tied)
    groups = build_optimizer(model, Optimizer(**MUON), PLAIN).param_groups
    by_muon = {
        id(parameter) for group in groups if group["use_muon"] for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        inner = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
        assert (id(parameter) in by_muon) == inner, name
    for group in groups:
        decays = all(parameter.ndim == 2 for parameter in group["params"])
        assert group["weight_decay"] * group.get("rate_factor", 1.0) == pytest.approx(0.1 * decays)


def test_muon_keeps_gpt2s_embeddings_of_positions_out():
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = dict(tiny.GPT2)
    config = AutoConfig.for_model(settings.pop("model_type"), vocab_size=257, **settings)
    model = AutoModelForCausalLM.from_config(config)
    build_optimizer(model, Optimizer(**MUON), PLAIN)
    assert not model.transformer.wte.weight.use_muon
    assert not model.transformer.wpe.weight.use_muon
    assert model.transformer.h[0].attn.c_attn.weight.use_muon


def muon_reference(model) -> list[torch.optim.Optimizer]:
    """torch's Muon with the same scaling, and AdamW for the rest."""
    inner, outer, vectors = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            vectors.append(parameter)
        else:
            (outer if "embed" in name or "lm_head" in name else inner).append(parameter)
    muon = torch.optim.Muon(
        inner, lr=1e-2, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    groups = [{"params": outer, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return [muon, torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8)]


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.long)])
def test_muon_under_zero_3_equals_torchs(ranks, tmp_path, communication_op):
    model = zero_process.model()
    expected = plain_losses(muon_reference(model), model)
    found = zero_process.run(tmp_path / "1", ranks, zero="zero3-muon.json", optimizer=MUON)
    # Both orthogonalise in bf16, where the last bit of a gradient may change a sum.
    assert found["losses"] == pytest.approx(expected, rel=1e-4)
    assert expected[-1] < expected[0] - 0.1  # it does something


@pytest.mark.long
@pytest.mark.parametrize("recipe", [ADAMW, LION], ids=lambda recipe: recipe["name"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_adamw_and_lion_under_zero_equal_plain_torch(recipe, ranks, tmp_path, communication_op):
    model = zero_process.model()
    optimizer = build_optimizer(model, Optimizer(**recipe), PLAIN)
    expected = plain_losses([optimizer], model)
    found = zero_process.run(tmp_path / "1", ranks, zero="zero3.json", optimizer=recipe)
    # Lion's sign of a sum near 0 depends on its last bit.
    assert found["losses"] == pytest.approx(expected, rel=1e-5 if recipe is ADAMW else 1e-4)


@pytest.mark.long
@pytest.mark.parametrize("recipe", [ADAMW, LION, MUON], ids=lambda recipe: recipe["name"])
def test_groups_survive_a_checkpoint_and_the_losses_go_on(recipe, tmp_path, communication_op):
    zero, saved = FILES[recipe["name"]], tmp_path / "checkpoints/a"
    whole = zero_process.run(tmp_path / "1", zero=zero, optimizer=recipe, steps=6)
    zero_process.run(tmp_path / "2", zero=zero, optimizer=recipe, steps=3, save=str(saved))
    rest = zero_process.run(
        tmp_path / "3", zero=zero, optimizer=recipe, first=3, steps=6, load=str(saved)
    )
    assert rest["losses"] == whole["losses"][3:]
    assert rest["groups"] == rest["own"]
    # An accepted change holds: what was saved does not come back.
    changed = recipe | {"weight_decay": 0.05}
    other = zero_process.run(
        tmp_path / "4", zero=zero, optimizer=changed, first=3, steps=4, load=str(saved)
    )
    assert other["groups"] == other["own"] != rest["own"]


@pytest.mark.long
@pytest.mark.parametrize("recipe", [ADAMW, LION], ids=lambda recipe: recipe["name"])
def test_groups_survive_a_checkpoint_of_another_number_of_ranks(recipe, tmp_path, communication_op):
    saved = tmp_path / "checkpoints/a"
    whole = zero_process.run(tmp_path / "1", zero="zero3.json", optimizer=recipe, steps=6)
    zero_process.run(
        tmp_path / "2", 2, zero="zero3.json", optimizer=recipe, steps=3, save=str(saved)
    )
    rest = zero_process.run(
        tmp_path / "3",
        zero="zero3.json",
        optimizer=recipe,
        first=3,
        steps=6,
        load=str(saved),
        resharded=True,
    )
    assert rest["losses"] == pytest.approx(whole["losses"][3:], rel=1e-4)
    assert rest["groups"] == rest["own"]
