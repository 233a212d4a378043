"""Short trainings of Engine on made-up documents, many in one job, for every rank's process of them is slow to start.

python -m tests.pretrain.engine.engine_cases JOB.json      (RANK, WORLD_SIZE, MASTER_PORT as a launcher sets them)
"""

import dataclasses
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from transformers import AutoConfig, AutoModelForCausalLM

from data_prep.errors import ProjectError
from pretrain import distributed
from pretrain.config import Model, RunConfig
from pretrain.data.batch import assemble, micro_batches, trained_tokens
from pretrain.data.packed_rows import PackedRows
from pretrain.engine.deepspeed_config import effective_config
from pretrain.engine.engine import Engine
from pretrain.model.build import DTYPES, with_adapters
from tests import ranks, tiny
from tests.pretrain.plain import Document, rates

ROWS, LENGTH, VOCABULARY = 8, 24, 61
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": tiny.GPT2,
    "llama": tiny.LLAMA,
    # Its logits are capped behind the head: the loss takes whole ones.
    "gemma2": tiny.LLAMA | {"model_type": "gemma2", "head_dim": 16, "final_logit_softcapping": 3.0},
}
LORA = {"rank": 4, "alpha": 8}
Outcome = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One training; every step has the same rows, whatever the number of micro-batches."""

    family: str = "gpt2"
    lora: bool = False
    precision: str = "fp32"
    accumulation: int = 1  # on two ranks; each has 4 rows
    stage: int = 3
    steps: int = 4
    z_loss: float = 0.0
    checkpointing: bool = False
    # Before this step (from 0), one more in which something of the last rank is no number.
    bad_before: int | None = None
    bad: str = "loss"  # or gradient
    scale_power: int = 16  # fp16: of the first loss scale, which is also the lowest if `lowest`
    lowest: bool = False
    offload: bool = False  # of the optimizer to the CPU
    resume_before: int | None = None  # goes on from a checkpoint, in a new engine
    evaluate_first: int = 0  # forward passes before the first step


def rows_of(step: int) -> PackedRows:
    """The global batch of a step: documents of 1 to 12 tokens, some masked, one row without any trained."""
    draw = np.random.default_rng(step)
    lengths = draw.integers(1, 13, (ROWS, LENGTH))
    lengths[lengths.cumsum(1) > LENGTH] = 0  # the rest is padding
    mask = draw.random((ROWS, LENGTH)) < 0.8
    mask[step % ROWS] = False
    # Few of the vocabulary, so that a few steps lower the loss.
    return PackedRows(draw.integers(0, 6, (ROWS, LENGTH)), lengths, mask)


def documents_of(step: int) -> list[Document]:
    """The same documents, each alone."""
    rows = rows_of(step)
    assert rows.loss_mask is not None
    labels = np.where(rows.loss_mask, rows.tokens, -100)
    found = []
    for row, pieces in enumerate(rows.pieces):
        begin = 0
        for length in pieces[pieces > 0]:
            part = slice(begin, begin + length)
            found.append((torch.tensor(rows.tokens[row, part]), torch.tensor(labels[row, part])))
            begin += length
    return found


def model_of(case: Case) -> Any:
    torch.manual_seed(5)
    settings: dict[str, Any] = dict(FAMILIES[case.family])
    config = AutoConfig.for_model(
        settings.pop("model_type"),
        vocab_size=VOCABULARY,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.2,  # large enough that a step changes the loss in bf16, too
        **settings,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[case.precision])
    if not case.lora:
        return model
    # peft draws adapters in fp32; DeepSpeed trains all of a model in one precision.
    return with_adapters(model, Model(path="-", lora=LORA)).to(DTYPES[case.precision])


def engine_of(case: Case, folder: Path) -> Engine:
    zero: dict[str, Any] = {"stage": case.stage}
    if case.stage == 3:
        zero["stage3_param_persistence_threshold"] = 0  # even these small weights are gathered
    if case.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
    settings: dict[str, Any] = {"zero_optimization": zero}
    settings["fp16"] = {"initial_scale_power": case.scale_power, "hysteresis": 1}
    if case.lowest:
        settings["fp16"]["min_loss_scale"] = 2**case.scale_power
    path = folder / f"zero-{distributed.Ranks.from_environment().rank}.json"
    path.write_text(json.dumps(settings))
    values = tiny.run_config(
        folder,
        {"a": folder},
        model={"path": "-", "lora": LORA} if case.lora else {"config": FAMILIES[case.family]},
        deepspeed=str(path),
        training__precision=case.precision,
        training__z_loss=case.z_loss,
        training__activation_checkpointing=case.checkpointing,
        training__global_batch=ROWS,
        training__micro_batch=ROWS // case.accumulation // world(),
    )
    config = RunConfig.model_validate(values)
    return Engine(
        model_of(case), config, effective_config(path, config.training, case.accumulation)
    )


def world() -> int:
    return distributed.Ranks.from_environment().world


def train(case: Case, folder: Path) -> Outcome:
    """What each step gave; `error` where it ended with one."""
    engine = engine_of(case, folder)
    found: list[dict[str, Any]] = []
    outcome: Outcome = {"steps": found, "by_chunks": engine.loss_by_chunks, "kept": []}
    engine.evaluate(share(97) * case.evaluate_first)
    engine.deepspeed.module.register_forward_hook(
        lambda module, *_: outcome["kept"].append(share_kept(module))
    )
    # Before a forward pass: what is computed a second time ends where the last tensor needed is there.
    attended: list[bool] = []
    first_attention(engine).register_forward_pre_hook(lambda *_: attended.append(True))
    for step, rate in enumerate(islice(rates(), case.steps)):
        if step == case.resume_before:
            engine, outcome["resumed"] = resumed(engine, case, folder)
        if step == case.bad_before:
            with no_number(engine, case.bad):
                outcome["bad"] = take(engine, step, rate)
        try:
            found.append(take(engine, step, rate))
        except ProjectError as error:
            outcome["error"] = f"{type(error).__name__}: {error}"
            break
    outcome["attended"] = len(attended)
    outcome["validation"] = engine.evaluate(share(99))
    outcome["counters"] = [engine.deepspeed.global_steps, engine.deepspeed.skipped_steps]
    engine.deepspeed.destroy()
    return outcome


def first_attention(engine: Engine) -> torch.nn.Module:
    named = engine.deepspeed.module.named_modules()
    return next(module for name, module in named if name.endswith("attn"))


def share_kept(module: torch.nn.Module) -> float:
    """The part of the weights that is still whole here, of ZeRO-3."""
    weights: list[Any] = list(module.parameters())
    kept = [getattr(one, "ds_status", None) == ZeroParamStatus.AVAILABLE for one in weights]
    return sum(kept) / len(kept)


def resumed(engine: Engine, case: Case, folder: Path) -> tuple[Engine, dict[str, bool]]:
    """A new engine that has loaded what `engine` saved; whether its optimizer is the same."""
    engine.deepspeed.save_checkpoint(folder / "checkpoint", tag="now")
    again = engine_of(case, folder)
    again.deepspeed.load_checkpoint(folder / "checkpoint", tag="now")
    again.restore_optimizer_settings()
    before, after = (one.deepspeed.optimizer.optimizer for one in (engine, again))
    settings = [
        [
            {key: value for key, value in group.items() if key != "params"}
            for group in one.param_groups
        ]
        for one in (before, after)
    ]
    states = [list(one.state.values()) for one in (before, after)]
    moments = [
        torch.equal(torch.as_tensor(own[key]), torch.as_tensor(loaded[key]))
        for own, loaded in zip(*states, strict=True)
        for key in ("step", "exp_avg", "exp_avg_sq")
    ]
    assert any(state["exp_avg_sq"].any() for state in states[0])
    engine.deepspeed.destroy()
    return again, {
        "moments": bool(moments) and all(moments),
        "settings": settings[0] == settings[1],
    }


def share(step: int, size: int = 1) -> list[dict[str, torch.Tensor]]:
    """This rank's micro-batches of a step."""
    ranks = distributed.Ranks.from_environment()
    tensors = assemble(rows_of(step), "document")
    mine = {name: tensor[ranks.rank :: ranks.world] for name, tensor in tensors.items()}
    return micro_batches(mine, size)


def take(engine: Engine, step: int, rate: float) -> dict[str, Any]:
    size = engine.deepspeed.train_micro_batch_size_per_gpu()
    count = trained_tokens(assemble(rows_of(step), "document")["labels"])
    result = dataclasses.asdict(engine.train_step(step + 1, share(step, size), count, rate))
    parts = result.pop("parts")
    assert set(parts) == {"forward", "backward", "step"}
    assert 0 < sum(parts.values()) <= result.pop("seconds")
    return result


class no_number:  # noqa: N801  (a context manager)
    """Makes the last rank's first micro-batch give a loss, or a gradient, that is no number."""

    def __init__(self, engine: Engine, what: str):
        self.engine, self.what, self.done = engine, what, False

    def __enter__(self) -> None:
        ranks = distributed.Ranks.from_environment()
        self.done = ranks.rank != ranks.world - 1
        embedding = self.engine.deepspeed.module.get_input_embeddings()
        self.hook = embedding.register_forward_hook(self.spoil)

    def spoil(self, _module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if self.done:
            return output
        self.done = True
        if self.what == "loss":
            return output * float("nan")
        output = output.clone() if output.requires_grad else output.detach().requires_grad_()
        output.register_hook(lambda gradient: gradient * float("inf"))
        return output

    def __exit__(self, *_: Any) -> None:
        self.hook.remove()


def main(path: Path) -> None:
    distributed.start(5)
    # DeepSpeed refuses fp16 on a CPU without instructions for it; torch computes it there all the same.
    get_accelerator().is_fp16_supported = lambda: True
    for number, values in enumerate(json.loads(path.read_text())):
        found = distributed.gather(repr(train(Case(**values), path.parent)))
        assert len(set(found)) == 1, f"ranks disagree: {found}"
        if distributed.Ranks.from_environment().first:
            path.with_suffix(f".{number}").write_text(found[0])
    distributed.barrier()
    distributed.stop()


def run(folder: Path, cases: list[Case], world: int = 2) -> Iterator[Outcome]:
    """Train them one after the other; what each gave."""
    job = folder / "job.json"
    job.write_text(json.dumps([dataclasses.asdict(case) for case in cases]))
    arguments = ["-m", "tests.pretrain.engine.engine_cases", str(job)]
    ranks.end(ranks.start(arguments, world), timeout_s=800)
    for number in range(len(cases)):
        # What a process of this module wrote by repr: numbers, inf and nan among them.
        text = job.with_suffix(f".{number}").read_text()
        yield eval(text, {"inf": float("inf"), "nan": float("nan")})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
