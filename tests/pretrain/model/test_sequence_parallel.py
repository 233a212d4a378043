"""Ranks that share each row train what one process trains on whole rows, and save it as others do."""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from data_prep.errors import ConfigError
from pretrain.model.sequence_parallel import check_model
from tests import tiny

RANKS = 2
STEPS = 3
RATE, CLIPPING, DECAY = 3e-3, 0.5, 0.1
LENGTH = 32
VOCABULARY = 61
# As many heads of keys as ranks, fewer (they are sent twice), and a number that ranks do not divide.
MODELS = {
    "gpt2": {**tiny.GPT2, "n_head": 4, "scale_attn_by_inverse_layer_idx": True},
    "one head of keys": {**tiny.LLAMA, "num_attention_heads": 4},
    "three heads of keys": {
        **tiny.LLAMA,
        "hidden_size": 48,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
    },
    "window": {**tiny.LLAMA, "model_type": "mistral", "sliding_window": 5},
}
# Loss and gradient norm of each step and the validation loss after them; the weights.
Outcome = tuple[list[float], dict[str, torch.Tensor]]


def config_of(settings: dict):
    settings = dict(settings)
    tokens = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    return AutoConfig.for_model(
        settings.pop("model_type"), vocab_size=VOCABULARY, **(tokens | settings)
    )


def batch(step: int, rows: int = 4) -> dict[str, torch.Tensor]:
    """Packed rows of three documents of any length and padding; those of a step are the same anywhere."""
    generator = np.random.default_rng(step)
    tokens = torch.from_numpy(generator.integers(1, VOCABULARY, (rows, LENGTH)))
    position_ids, labels = torch.zeros_like(tokens), tokens.clone()
    for row in range(rows):
        cuts = [0, *sorted(generator.choice(np.arange(1, LENGTH), 3, replace=False)), LENGTH]
        for start, stop in itertools.pairwise(cuts[:4]):
            position_ids[row, start:stop] = torch.arange(stop - start)
    labels[position_ids == 0] = -100
    return {"tokens": tokens, "labels": labels, "position_ids": position_ids}


def plain(base: Path) -> Outcome:
    """What a loop of plain PyTorch comes to, document by document."""
    model = AutoModelForCausalLM.from_pretrained(base)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}],
        lr=RATE,
        betas=(0.9, 0.95),
    )

    def mean_loss(rows: dict[str, torch.Tensor]) -> torch.Tensor:
        total, count = torch.zeros(()), 0
        for tokens, positions in zip(rows["tokens"], rows["position_ids"], strict=True):
            starts = (positions == 0).nonzero().flatten().tolist()
            for start, stop in itertools.pairwise([*starts, LENGTH]):
                if stop - start > 1:
                    document = tokens[None, start:stop]
                    logits = model(input_ids=document, use_cache=False).logits[0, :-1]
                    total = total + torch.nn.functional.cross_entropy(
                        logits, document[0, 1:], reduction="sum"
                    )
                    count += stop - start - 1
        return total / count

    figures = []
    for step in range(STEPS):
        loss = mean_loss(batch(step))
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIPPING)
        optimizer.step()
        figures += [loss.item(), norm.item()]
    with torch.no_grad():
        figures.append(mean_loss(batch(STEPS)).item())
    return figures, {n: p.detach().clone() for n, p in model.named_parameters()}


def shared(base: Path, checkpointing: bool) -> Outcome:
    """The same by RANKS ranks that share each row."""
    import deepspeed

    from pretrain.config import RunConfig
    from pretrain.data.batch import micro_batches
    from pretrain.engine.deepspeed_config import effective_config
    from pretrain.engine.engine import Engine
    from pretrain.model.build import build
    from pretrain.model.isolation import check_isolation
    from pretrain.model.sequence_parallel import SequenceParallel

    values = tiny.run_config(
        base / "run",
        {"a": base},
        model={"path": str(base)},
        optimizer={"learning_rate": RATE, "weight_decay": DECAY},
        training__gradient_clipping=CLIPPING,
        training__micro_batch=2,
        training__sequence_parallel=RANKS,
        training__activation_checkpointing=checkpointing,
    )
    config = RunConfig.model_validate(values)
    model_config = AutoConfig.from_pretrained(base)
    deepspeed_settings = effective_config(config.deepspeed, config.training, accumulation=2)
    model, guard = build(config.model, model_config, "fp32", deepspeed_settings, config.seed)
    check_model(model.config, RANKS, torch.device("cpu"))
    parallel = SequenceParallel.create(RANKS)
    parallel.attach(model)
    engine = Engine(model, config, deepspeed_settings, parallel)
    engine.deepspeed.eval()
    check_isolation(engine.logits, "document", VOCABULARY, engine.device, rows=2)
    # Rows that the ranks do not divide, as those of the export's probe may be.
    assert engine.logits(torch.ones((1, 7), dtype=torch.int64), torch.arange(7)[None]).shape[1] == 7
    figures = []
    for step in range(STEPS):
        rows = batch(step)
        tokens = int((rows["labels"][:, 1:] != -100).sum())
        result = engine.train_step(step + 1, micro_batches(rows, 2), tokens, RATE)
        figures += [result.loss, result.gradient_norm]
    figures.append(engine.evaluate(micro_batches(batch(STEPS), 2))[0])
    weights = {}
    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            weights[name] = parameter.detach().clone()
    del guard
    return figures, weights


def as_rank(rank: int, port: int, folder: Path) -> None:
    os.environ |= tiny.ENVIRONMENT | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(RANKS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    from pretrain import distributed

    distributed.start(timeout_minutes=5)
    found = {name: shared(folder / name, checkpointing=name == "gpt2") for name in MODELS}
    if rank == 0:
        torch.save(found, folder / "found.pt")
    distributed.barrier()
    distributed.stop()


def test_ranks_that_share_rows_train_as_one_process_does_on_single_documents(
    tmp_path, communication_op
):
    for name, settings in MODELS.items():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config_of(settings), dtype=torch.float32)
        model.save_pretrained(tmp_path / name)
    torch.multiprocessing.spawn(as_rank, (tiny.free_port(), tmp_path), RANKS)
    found = torch.load(tmp_path / "found.pt")
    for name in MODELS:
        figures, weights = plain(tmp_path / name)
        assert found[name][0] == pytest.approx(figures, abs=1e-5), name
        for weight, expected in weights.items():
            # Adam moves a weight by as much as RATE however small its gradient, of which rounding is a part.
            torch.testing.assert_close(found[name][1][weight], expected, atol=RATE / 100, rtol=0)


@pytest.mark.parametrize(
    ("settings", "size", "why"),
    [
        (tiny.GPT2, 3, "2 attention heads are no multiple"),
        ({**tiny.GPT2, "attn_pdrop": 0.1}, 2, "attention dropout is 0.1"),
    ],
)
def test_a_model_that_ranks_cannot_share_is_refused_in_one_line(settings, size, why):
    with pytest.raises(ConfigError, match=why) as refused:
        check_model(config_of(settings), size, torch.device("cpu"))
    assert "training.sequence_parallel" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.long
def test_a_run_goes_on_with_another_number_of_ranks_to_a_sequence(values, sets, tmp_path):
    """On as many ranks, without conversion: the checkpoint is the same."""
    changes = {"phases": [], "training__steps": 6, "checkpoint": {"every_steps": 3}}
    config = tiny.write_config(tmp_path / "whole.yaml", values(tmp_path / "whole", **changes))
    assert tiny.launch(config).returncode == 0
    run = tmp_path / "run"
    config = tiny.write_config(tmp_path / "run.yaml", values(run, **changes))
    options = ["--training.sequence_parallel", "2"]
    ended = tiny.launch(config, 2, "pretrain", *options)
    assert ended.returncode == 0, ended.stderr[-3000:]
    shared_losses = tiny.losses(run)
    assert shared_losses == pytest.approx(tiny.losses(tmp_path / "whole"), abs=1e-5)
    # Lost after the third step, and gone on with by ranks that do not share rows.
    for path in (run / "checkpoints").glob("step-00000006"):
        path.rename(path.with_name("lost"))
    (run / "status.json").unlink(missing_ok=True)
    ended = tiny.launch(config)
    assert ended.returncode == 0, ended.stderr[-3000:]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    resumed = [line for line in lines if line.get("event") == "resumed"]
    assert [line["step"] for line in resumed] == [3]
    assert tiny.losses(run) == pytest.approx(shared_losses, abs=1e-5)
