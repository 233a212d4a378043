"""What was measured, as Markdown."""

import json
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.measure import installed
from benchmarks.training import profiler
from benchmarks.training.contenders import BARE, OURS, PACKAGES, Prepared
from benchmarks.training.job import Result
from pretrain.watch.flops import flops_per_token, peak_flops

# By contender, one result a turn; None: the card has too little memory for it.
Found = dict[str, list[Result] | None]
COLUMNS = (
    "what",
    "version",
    "seconds a step (minimum to maximum)",
    "tokens/s",
    "MFU",
    "GB, rank 0",
    "times ours",
    "mean loss",
)


def table(prepared: Prepared, found: Found, warm_up: int) -> list[str]:
    """Lines for docs/benchmarks.md."""
    case = prepared.case
    seconds = {
        name: [statistics.median(one.step_seconds(warm_up)) for one in results]
        for name, results in found.items()
        if results
    }
    parameters, flops, peak_rate = _model_facts(prepared)
    rows = []
    for name, results in found.items():
        cells = [name, f"{PACKAGES[name]} {installed(PACKAGES[name])}"]
        if results:
            median = statistics.median(seconds[name])
            cells += [
                f"{median:.3f} ({min(seconds[name]):.3f} to {max(seconds[name]):.3f})",
                f"{case.tokens / median:,.0f}",
                f"{flops * case.tokens / median / peak_rate:.1%}" if flops and peak_rate else "",
                f"{results[0].peak_gb:.1f}",
                f"{_ratio(seconds[name], seconds[OURS]):.3f}" if OURS in seconds else "",
                f"{statistics.mean(results[0].losses):.4f}",
            ]
        else:
            cells += ["out of memory", *[""] * (len(COLUMNS) - 3)]
        rows.append(cells)
    runs = max(map(len, seconds.values()), default=0)
    return [
        f"## Training: {case.title}, {_plural(case.ranks, 'rank')} on {_machine(prepared)}",
        "",
        *_conditions(prepared, parameters, runs, warm_up),
        "",
        *_markdown(COLUMNS, rows),
        "",
        *_remarks(seconds, found[OURS] or [], warm_up),
        "",
    ]


def _model_facts(prepared: Prepared) -> tuple[int, float | None, float | None]:
    """(parameters, FLOPs of a token, the most FLOP/s that the card does)."""
    case = prepared.case
    settings = dict(prepared.job.model)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    peak = peak_flops(_machine(prepared), case.precision) if prepared.on_card else None
    return parameters, flops_per_token(model, config, case.sequence), peak


def _machine(prepared: Prepared) -> str:
    return torch.cuda.get_device_name() if prepared.on_card else "CPU"


def _conditions(prepared: Prepared, parameters: int, runs: int, warm_up: int) -> list[str]:
    case = prepared.case
    kernel = "sdpa with a mask made of position_ids"
    attention = f"ours by variable-length kernels, the others by {kernel}"
    plain = "fp32 weights and optimizer, bf16 by autocast"
    return [
        f"{parameters / 1e6:,.1f} million parameters, {case.precision}, ZeRO-3, {case.global_batch} sequences "
        f"x {case.sequence:,} tokens a step, {_plural(case.accumulation, 'micro-batch')} of "
        f"{case.micro_batch} a rank, {'with' if case.activation_checkpointing else 'no'} activation "
        "checkpointing. Random tokens in documents mostly of an abstract's length, kept apart by all: "
        f"{attention if prepared.on_card else f'by {kernel}'}.",
        f"Medians of {_plural(runs, 'process')}, of {prepared.job.steps - warm_up} steps each after {warm_up}. "
        f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}. Plain PyTorch: "
        f"{plain if case.precision == 'bf16' else _plural(case.ranks, 'thread')}. Losses: means of all steps.",
    ]


def _remarks(seconds: dict[str, list[float]], ours: Sequence[Result], warm_up: int) -> list[str]:
    """Ours over the bare loop, and what ours spends a step on."""
    lines = []
    if OURS in seconds and BARE in seconds:
        over = [mine / bare - 1 for mine, bare in zip(seconds[OURS], seconds[BARE], strict=True)]
        lines.append(
            f"Ours over the bare loop: {statistics.median(over):+.1%} (turn by turn {min(over):+.1%} "
            f"to {max(over):+.1%}; the aim is less than 3 %)."
        )
    if ours:
        shares = {
            part: statistics.median(_share(one, part, warm_up) for one in ours)
            for part in ours[0].parts
        }
        shares["the rest"] = 1 - sum(shares.values())
        told = ", ".join(f"{part} {share:.2%}" for part, share in shares.items())
        lines.append(f"Shares of our step: {told} (data: the aim is below 1 %).")
    return lines


def _share(result: Result, part: str, warm_up: int) -> float:
    return sum(result.parts[part][warm_up:]) / sum(result.step_seconds(warm_up))


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    return statistics.median(other / own for other, own in zip(theirs, ours, strict=True))


def kernels(name: str, folder: Path, step_seconds: float) -> list[str]:
    """The kernels that took the time, as shares of a step of `step_seconds`."""
    found = json.loads((folder / profiler.KERNELS).read_text())
    rows = [
        [f"`{kernel[:100]}`", f"{seconds:.4f}", f"{seconds / step_seconds:.1%}"]
        for kernel, seconds in found[: profiler.TOP]
    ]
    total = sum(seconds for _, seconds in found)
    return [
        f"### Kernels of {name}",
        "",
        f"{total:.3f} s of kernels in a step of {step_seconds:.3f} s; trace: {folder / profiler.TRACE}",
        "",
        *_markdown(["kernel", "seconds a step", "share"], rows),
        "",
    ]


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _plural(count: int, what: str) -> str:
    ending = "" if count == 1 else "es" if what.endswith(("s", "ch")) else "s"
    return f"{count} {what}{ending}"
