"""Training beside a bare DeepSpeed loop, Hugging Face Trainer and plain PyTorch; Markdown for docs/benchmarks.md.

python -m benchmarks.train [--steps 12] [--runs 5]         two ranks on the CPU
python -m benchmarks.train --gpu [--case llama]            one card: BioMedLM 2.7B, LLaMA-7B
python -m benchmarks.train --gpu --profile FOLDER          besides, traces and the kernels that took the time
python -m benchmarks.train --gpu --tiny                    the same way with tiny models, on any machine

The same model, rows and effective DeepSpeed settings for all; whole processes in turn, A B C A B C …; seconds from
the end of one step to the end of the next, without the first --warm-up steps. Ours is launch/pretrain.py itself.
"""

import argparse
import signal
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.training import cases, inputs, profiler, report
from benchmarks.training.cases import Case
from benchmarks.training.contenders import Prepared, Run, contenders
from benchmarks.training.job import Job, Result
from benchmarks.training.launching import ROOT, OutOfMemoryError

DEEPSPEED = ROOT / "configs/deepspeed/zero3.json"


def main(options: argparse.Namespace) -> None:
    if options.gpu and not options.tiny and not torch.cuda.is_available():
        raise SystemExit("--gpu: found no CUDA card; run it where there is one, or add --tiny")
    for case in _cases(options):
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            prepared = _prepare(home, case, options)
            runs = contenders(prepared, with_bare=not options.gpu)
            found = _measure(runs, home, options.runs)
            _print(report.table(prepared, found, options.warm_up))
            if options.profile:
                _profile(runs, found, home, options.profile / case.title.replace(" ", "-"))


def _cases(options: argparse.Namespace) -> list[Case]:
    if not options.gpu:
        return [cases.CPU]
    names = [options.case] if options.case else list(cases.GPU)
    found = [cases.tiny(name) if options.tiny else cases.GPU[name] for name in names]
    changes = {"activation_checkpointing": options.activation_checkpointing}
    if options.micro_batch:
        changes["micro_batch"] = options.micro_batch
    return [replace(case, **changes) for case in found]


def _prepare(home: Path, case: Case, options: argparse.Namespace) -> Prepared:
    steps = options.warm_up + options.steps
    if options.profile:
        steps = max(steps, profiler.NEEDED)
    shards = inputs.shard_set(home, case, steps * case.global_batch)
    config = inputs.run_config(home, case, shards, DEEPSPEED)
    job = Job(
        model=case.model | {"vocab_size": case.vocabulary},
        precision=case.precision,
        deepspeed=inputs.save_batches(config, case, steps, home / "batches"),
        optimizer=inputs.OPTIMIZER,
        clipping=inputs.CLIPPING,
        seed=inputs.SEED,
        steps=steps,
        activation_checkpointing=case.activation_checkpointing,
        batches=str(home / "batches"),
        result="",
    )
    return Prepared(case, config, job, on_card=options.gpu and torch.cuda.is_available())


def _measure(runs: dict[str, Run], home: Path, turns: int) -> report.Found:
    found: report.Found = {name: [] for name in runs}
    for turn in range(turns):
        for place, (name, run) in enumerate(runs.items()):
            results = found[name]
            if results is None:
                continue
            try:
                results.append(run(home / f"{turn}-{place}", None))
                told = f"{statistics.median(_late(results[-1])):.3f} s a step"
            except OutOfMemoryError:
                found[name], told = None, "out of memory"
            print(f"turn {turn + 1} of {turns}: {name}: {told}", file=sys.stderr, flush=True)
    return found


def _profile(runs: dict[str, Run], found: report.Found, home: Path, traces: Path) -> None:
    """Once more each, looked at; shares are of the step's time when nobody looked."""
    for place, (name, run) in enumerate(runs.items()):
        results = found[name]
        if results:
            trace = traces.resolve() / name.replace(" ", "-").replace("/", "-")
            run(home / f"profile-{place}", trace)
            seconds = statistics.median(_late(results[0]))
            _print(report.kernels(name, trace, seconds))


def _late(result: Result) -> list[float]:
    """Step times of the second half."""
    return result.step_seconds(max(1, len(result.times) // 2))


def _print(lines: list[str]) -> None:
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gpu", action="store_true", help="one card instead of two CPU ranks")
    parser.add_argument("--case", choices=list(cases.GPU), help="with --gpu: only this model")
    parser.add_argument("--tiny", action="store_true", help="with --gpu: tiny models, any machine")
    parser.add_argument("--micro-batch", type=int, help="with --gpu: sequences computed at once")
    parser.add_argument("--activation-checkpointing", action="store_true", help="with --gpu")
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="write traces there")
    parser.add_argument("--steps", type=int, default=12, help="steps of a process that count")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before them")
    parser.add_argument("--runs", type=int, default=5, help="processes of each contender")
    # Stopped by a signal, too, it ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main(parser.parse_args())
