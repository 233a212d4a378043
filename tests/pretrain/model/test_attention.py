"""varlen attention against its definition, what a model gets for it, and when it is chosen."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from data_prep.errors import ConfigError
from pretrain.model.attention import by_document, choose, model_inputs, obstacle
from pretrain.model.isolation import check_isolation
from tests import tiny

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def config_of(dtype: torch.dtype = torch.bfloat16, **settings):
    chosen = tiny.LLAMA | settings
    return AutoConfig.for_model(chosen.pop("model_type"), dtype=dtype, **chosen)


def by_definition(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int], window: int
) -> torch.Tensor:
    """softmax(q k / sqrt(D)) v over the tokens that a token may see, one token and head at a time."""
    groups = query.shape[1] // key.shape[1]
    output = torch.zeros_like(query)
    start = 0
    for length in lengths:
        for place in range(start, start + length):
            seen = slice(max(start, place - window + 1), place + 1)
            for head in range(query.shape[1]):
                scores = key[seen, head // groups] @ query[place, head] / query.shape[2] ** 0.5
                output[place, head] = scores.softmax(0) @ value[seen, head // groups]
        start += length
    return output


@pytest.mark.parametrize("window", [None, 1, 3, 7, 8])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_each_token_sees_its_document_as_far_as_the_window_reaches(key_heads, window):
    lengths = [7, 1, 1, 4, 7, 1, 22]
    torch.manual_seed(0)
    query = torch.randn(sum(lengths), 4, 8, dtype=torch.float64)
    key, value = torch.randn(2, sum(lengths), key_heads, 8, dtype=torch.float64)
    borders = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    found = by_document(query, key, value, borders, window=window)
    expected = by_definition(query, key, value, lengths, window or sum(lengths))
    torch.testing.assert_close(found, expected)


def test_padding_is_computed_in_one_call_however_much_there_is(monkeypatch):
    calls = []
    original = torch.nn.functional.scaled_dot_product_attention

    def counted(*args, **options):
        calls.append(args[0].shape)
        return original(*args, **options)

    monkeypatch.setattr("pretrain.model.attention.scaled_dot_product_attention", counted)
    borders = torch.cat([torch.tensor([0, 5]), torch.arange(6, 5006)]).to(torch.int32)
    query, key, value = torch.randn(3, 5005, 2, 4)
    output = by_document(query, key, value, borders)
    assert len(calls) == 2
    torch.testing.assert_close(output[5:], value[5:])  # a token that sees itself alone


def test_borders_are_those_of_documents_and_rows_and_padding_is_one_document():
    positions = torch.tensor([[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 0]])
    inputs = model_inputs(torch.zeros_like(positions), positions, "varlen")
    assert inputs["cu_seq_lens_q"].tolist() == [0, 3, 5, 6, 10, 12]
    assert inputs["cu_seq_lens_q"].dtype == torch.int32
    assert inputs["max_length_q"] == 4
    through = torch.arange(6).expand(2, -1)  # attention: sequence
    inputs = model_inputs(torch.zeros_like(through), through, "flash_attention_2")
    assert inputs["cu_seq_lens_k"].tolist() == [0, 6, 12]
    assert inputs["max_length_k"] == 6


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_transformers_masks_are_made_of_positions_alone(implementation):
    positions = torch.arange(6).expand(2, -1)
    inputs = model_inputs(torch.zeros_like(positions), positions, implementation)
    assert set(inputs) == {"input_ids", "position_ids", "use_cache"}
    assert inputs["use_cache"] is False


def test_auto_is_sdpa_on_a_cpu_and_where_the_kernel_cannot_compute_it():
    assert choose("auto", CPU, config_of()) == "sdpa"
    assert choose("varlen", CPU, config_of(torch.float32)) == "varlen"
    assert choose("eager", GPU, config_of()) == "eager"
    for config in (config_of(attention_dropout=0.1), config_of(torch.float32)):
        assert choose("auto", GPU, config) == "sdpa"
        with pytest.raises(ConfigError, match="varlen cannot be used, for the kernel"):
            choose("varlen", GPU, config)
    assert "dropout is 0.1" in str(obstacle(CPU, config_of(attention_dropout=0.1)))
    assert "torch.float32" in str(obstacle(GPU, config_of(torch.float32)))


def test_flash_attention_without_its_package_is_one_line():
    with pytest.raises(ConfigError, match="needs the package flash-attn") as raised:
        choose("flash_attention_2", GPU, config_of())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("rows", [1, 3])
def test_the_start_up_test_finds_varlen_isolated_and_crossing_as_declared(rows):
    config = config_of(torch.float32, vocab_size=97)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="varlen").eval()

    def forward(tokens, positions):
        return model(**model_inputs(tokens, positions, "varlen")).logits

    assert check_isolation(forward, "document", 97, CPU, rows) < 1e-6
    assert check_isolation(forward, "sequence", 97, CPU, rows) > 1e-4
