"""Packed documents give the logits and gradients that each document gives alone, in every model family."""

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from pretrain.data.batch import IGNORED
from pretrain.model.attention import model_inputs
from tests import tiny

VOCABULARY = 97
LENGTH = 40
# Two rows: documents longer and shorter than the windows below, one token long, and padding behind.
ROWS = [[23, 1, 9], [5, 5, 30]]
WINDOW = 6

LLAMA = tiny.LLAMA | {"num_attention_heads": 4, "num_key_value_heads": 2}
GLM = LLAMA | {"head_dim": 8, "pad_token_id": 0}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": tiny.GPT2,
    "biomedlm": tiny.GPT2 | {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    "llama1": LLAMA | {"num_key_value_heads": 4},
    "llama2": LLAMA,
    "llama3": LLAMA
    | {
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "mistral": LLAMA | {"model_type": "mistral", "sliding_window": WINDOW},
    "qwen2": LLAMA | {"model_type": "qwen2"},
    "qwen2-window": LLAMA
    | {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 1,
    },
    "qwen3": LLAMA | {"model_type": "qwen3", "head_dim": 16},
    "glm": GLM | {"model_type": "glm"},
    "glm4": GLM | {"model_type": "glm4"},
    "olmo": LLAMA | {"model_type": "olmo"},
    "olmo2": LLAMA | {"model_type": "olmo2"},
    "olmo3": LLAMA | {"model_type": "olmo3", "sliding_window": WINDOW},
}
IMPLEMENTATIONS = ["eager", "sdpa", "varlen"]


def model_of(family: str, implementation: str) -> PreTrainedModel:
    settings = {"bos_token_id": 1, "eos_token_id": 2} | FAMILIES[family]
    config = AutoConfig.for_model(settings.pop("model_type"), vocab_size=VOCABULARY, **settings)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=implementation
    ).eval()


def packed(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Random tokens and the positions of documents of these lengths, 0 on padding."""
    tokens = torch.randint(VOCABULARY, (len(rows), LENGTH), generator=torch.manual_seed(1))
    positions = torch.zeros_like(tokens)
    for row, lengths in enumerate(rows):
        counted = torch.cat([torch.arange(length) for length in lengths])
        positions[row, : len(counted)] = counted
    return tokens, positions


def documents(rows: list[list[int]]) -> list[tuple[int, slice]]:
    """Row and place of every document."""
    places = []
    for row, lengths in enumerate(rows):
        start = 0
        for length in lengths:
            places.append((row, slice(start, start + length)))
            start += length
    return places


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_documents_have_the_logits_of_single_ones(family, implementation):
    tokens, positions = packed(ROWS)
    model = model_of(family, implementation)
    alone = model_of(family, "eager")  # transformers' plain formula, on a batch without packing
    with torch.no_grad():
        found = model(**model_inputs(tokens, positions, implementation)).logits
        for row, place in documents(ROWS):
            expected = alone(tokens[row : row + 1, place], use_cache=False).logits[0]
            torch.testing.assert_close(found[row, place], expected, rtol=1e-4, atol=2e-6)


def summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each label with the logits before it, in nats, summed."""
    predicted = logits[:, :-1].flatten(0, 1)
    return cross_entropy(predicted, labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("family", ["biomedlm", "mistral"])
def test_packed_documents_have_the_gradients_of_single_ones(family, implementation):
    tokens, positions = packed(ROWS)
    model, alone = model_of(family, implementation).train(), model_of(family, "eager")
    model.gradient_checkpointing_enable({"use_reentrant": False})
    labels = torch.full_like(tokens, IGNORED)
    for row, place in documents(ROWS):
        labels[row, place] = tokens[row, place]
        labels[row, place.start] = IGNORED  # a document's first token is predicted from nothing
    summed_loss(model(**model_inputs(tokens, positions, implementation)).logits, labels).backward()
    for row, place in documents(ROWS):
        document = tokens[row : row + 1, place]
        summed_loss(alone(document, use_cache=False).logits, document).backward()
    for (name, found), expected in zip(model.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(
            found.grad, expected.grad, rtol=1e-3, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_attention_crosses_documents_where_positions_count_through_the_row(implementation):
    tokens, _ = packed(ROWS)
    positions = torch.arange(LENGTH).expand(2, -1)
    model = model_of("llama2", implementation)
    with torch.no_grad():
        found = model(**model_inputs(tokens, positions, implementation)).logits
        expected = model_of("llama2", "eager")(tokens, use_cache=False).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_scores_of_layer_l_are_divided_by_l_where_gpt2_asks_for_it(implementation):
    """As in a GPT-2 without the setting whose queries are divided by l (Mistral, Stanford CRFM 2021)."""
    tokens, positions = packed(ROWS)
    model = model_of("biomedlm", implementation)
    plain = model_of("biomedlm", "eager")
    with torch.no_grad():
        for number, block in enumerate(plain.transformer.h, start=1):
            block.attn.scaling = 16**-0.5  # heads of 16 numbers
            width = block.attn.embed_dim
            block.attn.c_attn.weight[:, :width] /= number
            block.attn.c_attn.bias[:width] /= number
        found = model(**model_inputs(tokens, positions, implementation)).logits
        expected = plain(**model_inputs(tokens, positions, "eager")).logits
    for row, place in documents(ROWS):  # nothing is said of padding
        torch.testing.assert_close(found[row, place], expected[row, place], rtol=1e-4, atol=2e-6)
