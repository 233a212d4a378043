"""Tensors from packed rows: held against loops, and against real small models."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from pretrain.data.batch import assemble, micro_batches, trained_tokens
from pretrain.data.packed_rows import PackedRows, Part, gather

LENGTH = 48


class Row(NamedTuple):
    """One sequence: the lengths of its documents, and which tokens are trained on."""

    tokens: np.ndarray
    lengths: np.ndarray
    loss_mask: np.ndarray | None = None


def _row(generator: torch.Generator, lengths: list[int], mask: bool = False) -> Row:
    tokens = torch.randint(0, 90, (LENGTH,), generator=generator).numpy().astype(np.uint16)
    chosen = torch.rand(LENGTH, generator=generator).numpy() < 0.5 if mask else None
    return Row(tokens, np.array(lengths, dtype=np.uint32), chosen)


def packed(rows: list[Row]) -> PackedRows:
    masked = any(row.loss_mask is not None for row in rows)
    length = len(rows[0].tokens)
    masks = [np.ones(length, bool) if row.loss_mask is None else row.loss_mask for row in rows]
    pieces = np.zeros((len(rows), max(len(row.lengths) for row in rows)), np.uint32)
    for listed, row in zip(pieces, rows, strict=True):
        listed[: len(row.lengths)] = row.lengths
    return PackedRows(
        np.stack([row.tokens for row in rows]), pieces, np.stack(masks) if masked else None
    )


@pytest.fixture
def rows() -> list[Row]:
    generator = torch.Generator().manual_seed(1)
    return [
        _row(generator, [20, 1, 1, 13, 5]),
        _row(generator, [LENGTH]),
        _row(generator, [7], mask=True),
        _row(generator, [1]),
        _row(generator, []),
        _row(generator, [30, 18], mask=True),
    ]


@pytest.mark.parametrize("attention", ["document", "sequence"])
def test_tensors_equal_a_loop_over_every_token(rows, attention):
    batch = assemble(packed(rows), attention)
    for number, row in enumerate(rows):
        labels, positions = [-100] * LENGTH, [0] * LENGTH
        place = 0
        for length in row.lengths.tolist():
            for within in range(length):
                trained = row.loss_mask is None or bool(row.loss_mask[place])
                if within > 0 and trained:
                    labels[place] = int(row.tokens[place])
                positions[place] = within
                place += 1
        if attention == "sequence":
            positions = list(range(LENGTH))
        assert batch["tokens"][number].tolist() == row.tokens.tolist()
        assert batch["labels"][number].tolist() == labels
        assert batch["position_ids"][number].tolist() == positions
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    assert all(tensor.shape == (len(rows), LENGTH) for tensor in batch.values())


def test_the_largest_token_of_a_wide_vocabulary_survives():
    row = Row(np.full(4, 2**32 - 1, dtype=np.uint32), np.array([4], dtype=np.uint32))
    labels = assemble(packed([row]), "document")["labels"]
    assert labels.tolist() == [[-100] + [2**32 - 1] * 3]


@pytest.mark.parametrize("length", [255, 256, 65_535, 65_536, 70_000])
def test_positions_count_to_the_end_of_rows_of_any_length(length):
    rows = PackedRows(np.ones((2, length), np.uint16), np.array([[length], [length - 1]]))
    positions = assemble(rows, "document")["position_ids"]
    assert torch.equal(positions[0], torch.arange(length))
    assert positions[1].tolist() == [*range(length - 1), 0]


@pytest.mark.parametrize("attention", ["document", "sequence"])
def test_rows_of_padding_train_nothing(attention):
    rows = assemble(gather([], 3, LENGTH, np.dtype(np.uint16)), attention)
    assert trained_tokens(rows["labels"]) == 0
    assert (rows["labels"] == -100).all()
    assert all(tensor.shape == (3, LENGTH) for tensor in rows.values())


def test_gathered_rows_are_those_of_their_row_groups_at_their_places(rows):
    first, second = packed(rows[:2]), packed(rows[2:])
    parts = [
        Part(second, np.array([3, 0, 1]), np.array([0, 2, 5])),
        Part(first, np.array([0, 1]), np.array([3, 4])),
    ]
    found = assemble(gather(parts, 7, LENGTH, np.dtype(np.uint16)), "document")
    expected = assemble(packed(rows), "document")
    for name, tensor in found.items():
        assert torch.equal(tensor[[0, 2, 5, 3, 4]], expected[name][[5, 2, 3, 0, 1]])
    assert (found["labels"][[1, 6]] == -100).all()


def test_micro_batches_are_the_rows_in_order(rows):
    whole = assemble(packed(rows), "document")
    parts = micro_batches(whole, 2)
    assert [len(part["tokens"]) for part in parts] == [2, 2, 2]
    for name, tensor in whole.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), tensor)


# -- real models -------------------------------------------------------------------------------


@pytest.fixture(params=["gpt2-eager", "gpt2-sdpa", "llama-eager", "llama-sdpa"])
def model(request):
    family, kernel = request.param.split("-")
    sizes = {"vocab_size": 90, "attn_implementation": kernel, "use_cache": False}
    config: GPT2Config | LlamaConfig
    if family == "gpt2":
        config = GPT2Config(n_positions=LENGTH, n_embd=32, n_layer=2, n_head=4, **sizes)
    else:
        config = LlamaConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=LENGTH, **sizes,
        )  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def _logits(model, batch) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=batch["tokens"], position_ids=batch["position_ids"]).logits


def _documents(row: Row) -> list[tuple[int, int]]:
    stops = np.cumsum(row.lengths).tolist()
    return list(zip([0, *stops[:-1]], stops, strict=True))


def test_packed_logits_equal_those_of_each_document_alone(model, rows):
    batch = assemble(packed(rows), "document")
    logits = _logits(model, batch)
    assert torch.isfinite(logits).all()
    for number, row in enumerate(rows):
        for start, stop in _documents(row) if len(row.lengths) else []:
            with torch.no_grad():
                alone = model(input_ids=batch["tokens"][number : number + 1, start:stop]).logits
            torch.testing.assert_close(logits[number, start:stop], alone[0], atol=1e-5, rtol=0)


def test_each_padding_token_is_a_document_of_its_own(model, rows):
    batch = assemble(packed(rows[:1]), "document")
    logits = _logits(model, batch)
    end = int(rows[0].lengths.sum())
    for place in range(end, LENGTH):
        with torch.no_grad():
            alone = model(input_ids=batch["tokens"][:, place : place + 1]).logits
        torch.testing.assert_close(logits[0, place], alone[0, 0], atol=1e-5, rtol=0)


def test_sequence_attention_crosses_documents_and_equals_the_plain_run(model, rows):
    batch = assemble(packed(rows[:1]), "sequence")
    with torch.no_grad():
        plain = model(input_ids=batch["tokens"]).logits
    torch.testing.assert_close(_logits(model, batch), plain, atol=1e-5, rtol=0)
    changed = {**batch, "tokens": batch["tokens"].clone()}
    changed["tokens"][0, :20] = (changed["tokens"][0, :20] + 1) % 90
    assert (_logits(model, changed) - plain)[0, 22:35].abs().max() > 1e-4


def test_the_models_own_loss_is_the_mean_over_the_counted_tokens(model, rows):
    batch = assemble(packed(rows), "document")
    logits = _logits(model, batch)
    total, count = torch.zeros(()), 0
    for row in range(len(rows)):
        for place in range(1, LENGTH):
            label = int(batch["labels"][row, place])
            if label != -100:
                total -= torch.log_softmax(logits[row, place - 1], dim=-1)[label]
                count += 1
    assert trained_tokens(batch["labels"]) == count
    with torch.no_grad():
        loss = model(
            input_ids=batch["tokens"], labels=batch["labels"], position_ids=batch["position_ids"]
        ).loss
    torch.testing.assert_close(loss, total / count)
