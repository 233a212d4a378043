"""The loss by chunks: its value, its gradients, its z term and its memory."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from pretrain.data.batch import IGNORED
from pretrain.engine import loss
from pretrain.engine.loss import (
    LossHead,
    following,
    loss_head,
    loss_of_logits,
    passes_on,
    trained_places,
)
from pretrain.model.attention import model_inputs
from tests import tiny

WIDTH, VOCABULARY, Z_LOSS = 8, 23, 0.01
# One unit in the last place of a sum of some thirty numbers, of a few digits each in bf16 and fp16.
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 2e-2,
    torch.float16: 2e-3,
}


def by_definition(hidden, weight, bias, labels, z_loss):
    """The sum over trained tokens, one by one, in fp64: cross entropy and z term, and the z term."""
    hidden, weight = hidden.double(), weight.double()
    total, z_term = torch.zeros(2, dtype=torch.float64).unbind()
    for row in range(labels.shape[0]):
        for place in range(1, labels.shape[1]):
            if labels[row, place] != IGNORED:
                logits = weight @ hidden[row, place - 1]
                if bias is not None:
                    logits = logits + bias.double()
                normalizer = logits.exp().sum().log()
                total = total + normalizer - logits[labels[row, place]]
                z_term = z_term + z_loss * normalizer**2
    return total + z_term, z_term


def head_of(dtype=torch.float32, bias=False) -> LossHead:
    head = nn.Linear(WIDTH, VOCABULARY, bias=bias).to(dtype)
    head.__class__ = LossHead
    return head


def some_labels() -> torch.Tensor:
    labels = torch.randint(0, VOCABULARY, (2, 17), generator=torch.Generator().manual_seed(1))
    labels[0, 3:6] = IGNORED
    labels[1, :9] = IGNORED
    return labels


def gradients_of(result: torch.Tensor, *tensors: torch.Tensor) -> list[torch.Tensor]:
    # Of the loss times a factor, as the engine takes it.
    return list(torch.autograd.grad(0.37 * result, tensors))


@pytest.mark.parametrize("chunk", [VOCABULARY, 5 * VOCABULARY, 2**27])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_chunks_give_loss_z_term_and_gradients_of_the_definition(
    dtype, bias, chunk, monkeypatch
):
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", chunk)
    torch.manual_seed(0)
    head, labels = head_of(dtype, bias), some_labels()
    hidden = torch.randn(2, 17, WIDTH, dtype=dtype, requires_grad=True)
    tensors = [hidden, *head.parameters()]
    expected = by_definition(hidden, head.weight, head.bias, labels, Z_LOSS)
    with head.aimed_at(*trained_places(following(labels)), Z_LOSS):
        found = head(hidden)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    # The head's own precision is part of its input, and its sums are in fp32 at least.
    near = min(TOLERANCE[dtype], 1e-5)
    assert found.tolist() == pytest.approx([value.item() for value in expected], rel=near)
    for own, wanted in zip(
        gradients_of(found[0], *tensors), gradients_of(expected[0], *tensors), strict=True
    ):
        assert own.dtype == dtype
        scale = wanted.abs().max().item()
        torch.testing.assert_close(own, wanted, rtol=0, atol=TOLERANCE[dtype] * scale)


def test_whole_logits_give_the_same_and_a_plain_sum_is_the_loss_without_the_z_term():
    torch.manual_seed(0)
    head, labels, hidden = head_of(), some_labels(), torch.randn(2, 17, WIDTH)
    places = trained_places(following(labels))
    expected = torch.stack(by_definition(hidden, head.weight, None, labels, Z_LOSS)).float()
    torch.testing.assert_close(loss_of_logits(head(hidden), *places, Z_LOSS), expected)
    torch.testing.assert_close(
        loss_of_logits(head(hidden), *places, 0.0)[0], expected[0] - expected[1]
    )


def test_a_batch_without_a_trained_token_gives_0_and_a_gradient_of_0():
    head, hidden = head_of(), torch.randn(2, 17, WIDTH, requires_grad=True)
    labels = torch.full((2, 17), IGNORED)
    with head.aimed_at(*trained_places(following(labels)), Z_LOSS):
        found = head(hidden)
    assert found.tolist() == [0.0, 0.0]
    for gradient in gradients_of(found[0], hidden, head.weight):
        assert gradient.abs().max().item() == 0.0


def test_a_frozen_head_passes_the_gradient_on_and_gets_none():
    head, hidden = head_of().requires_grad_(False), torch.randn(2, 17, WIDTH, requires_grad=True)
    with head.aimed_at(*trained_places(following(some_labels())), Z_LOSS):
        head(hidden)[0].backward()
    assert head.weight.grad is None
    assert hidden.grad is not None
    assert hidden.grad.abs().max().item() > 0


def test_tied_embeddings_get_both_gradients():
    settings = dict(tiny.GPT2)
    config = AutoConfig.for_model(settings.pop("model_type"), vocab_size=VOCABULARY, **settings)
    model = AutoModelForCausalLM.from_config(config)
    names = list(model.state_dict())
    labels = some_labels()
    tokens = torch.randint(0, VOCABULARY, labels.shape)
    inputs = model_inputs(tokens, torch.arange(17).expand(2, -1), "sdpa")
    places = trained_places(following(labels))
    loss_of_logits(model(**inputs).logits, *places, 0.0)[0].backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    head = loss_head(model)
    assert head is not None
    assert head.weight is model.get_input_embeddings().weight
    with head.aimed_at(*places, 0.0):
        model(**inputs).logits[0].backward()
    assert list(model.state_dict()) == names
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=name)


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // 4)
        return made


@pytest.mark.parametrize("trained", [True, False])
def test_the_logits_of_all_tokens_never_exist(trained, monkeypatch):
    tokens, vocabulary, chunk = 256, 4_096, 16 * 4_096
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", chunk)
    head = nn.Linear(WIDTH, vocabulary, bias=False)
    head.__class__ = LossHead
    hidden = torch.randn(1, tokens, WIDTH, requires_grad=True)
    places = trained_places(following(torch.randint(0, vocabulary, (1, tokens))))
    with head.aimed_at(*places, Z_LOSS), LargestTensor() as by_chunks:
        with torch.set_grad_enabled(trained):
            found = head(hidden)[0]
        if trained:
            found.backward()
    with LargestTensor() as whole:
        loss_of_logits(head(hidden), *places, Z_LOSS)[0].backward()
    assert whole.elements >= (tokens - 1) * vocabulary
    assert by_chunks.elements <= chunk  # which also holds a gradient of the weight, 8 x 4,096


@pytest.mark.parametrize(
    ("family", "changes", "unchanged"),
    [
        ("gpt2", {}, True),
        ("llama", {}, True),
        ("gemma2", {"final_logit_softcapping": 30.0}, False),
        ("cohere", {"logit_scale": 0.0625}, False),
        ("granite", {"logits_scaling": 8.0}, False),
    ],
)
def test_models_that_change_the_logits_of_their_head_are_found(family, changes, unchanged):
    settings = dict(tiny.GPT2 if family == "gpt2" else tiny.LLAMA)
    settings |= {"model_type": family, "pad_token_id": 0} | changes
    config = AutoConfig.for_model(settings.pop("model_type"), vocab_size=VOCABULARY, **settings)
    model = AutoModelForCausalLM.from_config(config)
    head = loss_head(model)
    assert head is not None
    tokens = torch.zeros(2, 8, dtype=torch.int64)
    assert passes_on(lambda: model(tokens, use_cache=False).logits, head) is unchanged
    assert not head._forward_hooks


def test_a_head_that_is_no_plain_linear_layer_is_left_alone():
    class Doubled(nn.Linear):
        def forward(self, hidden):
            return 2 * super().forward(hidden)

    class Model:
        head = Doubled(WIDTH, VOCABULARY)

        def get_output_embeddings(self):
            return self.head

    assert loss_head(Model()) is None
    assert type(Model.head) is Doubled
