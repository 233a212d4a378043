"""Starts contenders as processes, and ends our run when the steps that count are done."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import psutil

from benchmarks.training.job import Result

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"


class OutOfMemoryError(Exception):
    """The card has less memory than a contender needs."""


def deepspeed_command(ranks: int, *script: str) -> list[str]:
    """DeepSpeed's launcher on this machine; `script` as its command line takes it."""
    deepspeed = str(Path(sys.executable).with_name("deepspeed"))
    where = ["--num_gpus", str(ranks), "--master_addr", HOST, "--master_port", str(_free_port())]
    return [deepspeed, *where, *script]


def environment(threads: int, on_card: bool, **others: str) -> dict[str, str]:
    """Of a contender's processes, `threads` each."""
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    no_card = {} if on_card else {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return os.environ | offline | no_card | {"OMP_NUM_THREADS": str(threads)} | others


def run_job(command: Sequence[str], environ: dict[str, str], result: Path) -> Result:
    """Run a contender to its end."""
    with _started(command, environ) as (process, output):
        if process.wait() or not result.exists():
            _fail(command, output)
    return Result.read(result)


def run_ours(command: Sequence[str], environ: dict[str, str], run: Path, steps: int) -> Result:
    """Run a training until its metrics name `steps` steps; then kill it, for its end would save a checkpoint."""
    metrics = run / "metrics.jsonl"
    with _started(command, environ) as (process, output):
        while len(lines := _steps_of(metrics)) < steps:
            if process.poll() is not None:
                _fail(command, output)
            time.sleep(0.2)
    return _result(lines[:steps])


@contextmanager
def _started(
    command: Sequence[str], environ: dict[str, str]
) -> Iterator[tuple[subprocess.Popen, BinaryIO]]:
    """The process and what it says; however the block ends, nothing of it stays."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield process, output
        finally:
            _kill(process)
            _remove_buffers(command)


def _result(lines: list[dict[str, Any]]) -> Result:
    return Result(
        times=[line["time"] for line in lines],
        losses=[line["loss"] for line in lines],
        peak_gb=max(line["memory_gb"] for line in lines),
        parts={
            part: [line["seconds_in"][part] for line in lines] for part in lines[0]["seconds_in"]
        },
    )


def _steps_of(metrics: Path) -> list[dict[str, Any]]:
    """The whole lines that tell of a step."""
    if not metrics.exists():
        return []
    whole = metrics.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
    return [line for line in map(json.loads, whole) if "loss" in line]


def _kill(process: subprocess.Popen) -> None:
    """The launcher and all it has started, and nothing else."""
    try:
        parent = psutil.Process(process.pid)
        for one in [*parent.children(recursive=True), parent]:
            one.kill()
    except psutil.NoSuchProcess:
        pass
    process.wait()


def _fail(command: Sequence[str], output: BinaryIO) -> NoReturn:
    output.seek(0)
    text = output.read().decode(errors="replace")
    if "out of memory" in text:
        raise OutOfMemoryError
    raise SystemExit(f"{' '.join(command)}: {text[-3000:]}")


def _remove_buffers(command: Sequence[str]) -> None:
    """DeepSpeed's op for CPU leaves 69 MB a rank in /dev/shm for good."""
    if "--master_port" in command:
        port = command[command.index("--master_port") + 1]
        for buffer in Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_{HOST}_{port}_*"):
            buffer.unlink(missing_ok=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]
