"""Whole processes in turn, A B A B …: medians, and the ratio pair by pair, which holds when a machine drifts."""

import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNS = 5


@dataclass(frozen=True)
class Contender:
    """A way to do the work: `python -m benchmarks.CONTENDERS name argument …`."""

    name: str
    package: str  # whose version counts; skipped where it is not installed
    arguments: list[str]


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def seconds(arguments: list[str]) -> float:
    """Wall seconds of one run in a process of its own."""
    began = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {ended.stderr}")
    return time.perf_counter() - began


def compare(title: str, megabytes: float, contenders: list[Contender]) -> list[str]:
    """Run the contenders in turn; lines of a Markdown table, the first contender being ours."""
    present = [one for one in contenders if installed(one.package)]
    times: dict[str, list[float]] = {one.name: [] for one in present}
    for turn in range(RUNS + 1):
        for one in present:
            taken = seconds(one.arguments)
            if turn:  # the first round warms the caches
                times[one.name].append(taken)
    ours = times[present[0].name]
    lines = [
        f"## {title}",
        "",
        f"{megabytes:.0f} MB, whole processes, median of {RUNS} (minimum to maximum), "
        f"Python {platform.python_version()}, {platform.machine()}",
        "",
        "| what | version | seconds | times ours |",
        "| --- | --- | --- | --- |",
    ]
    for one in present:
        own = times[one.name]
        ratio = statistics.median(other / mine for other, mine in zip(own, ours, strict=True))
        lines.append(
            f"| {one.name} | {one.package} {installed(one.package)} | "
            f"{statistics.median(own):.2f} ({min(own):.2f} to {max(own):.2f}) | {ratio:.2f} |"
        )
    lines += [
        f"\n{one.name}: not installed, not measured" for one in contenders if one not in present
    ]
    return [*lines, ""]
