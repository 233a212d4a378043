"""Processes in turn, A B A B …: medians, and the ratio pair by pair, which holds when a machine drifts."""

import json
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNS = 5


@dataclass(frozen=True)
class Contender:
    """A way to do the work: a function of benchmarks/ways.py and its arguments."""

    name: str
    package: str  # whose version counts; skipped where it is not installed
    way: list[str]


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def seconds(way: list[str]) -> float:
    """Wall seconds of the work, in a process of its own; its start and imports are not counted."""
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.ways", *way],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise SystemExit(f"{' '.join(way)}: {ended.stderr}")
    return json.loads(ended.stdout.splitlines()[-1])["seconds"]


def compare(title: str, megabytes: float, contenders: list[Contender]) -> list[str]:
    """Run the contenders in turn; lines of a Markdown table, the first contender being ours."""
    present = [one for one in contenders if installed(one.package)]
    times: dict[str, list[float]] = {one.name: [] for one in present}
    for turn in range(RUNS + 1):
        for one in present:
            taken = seconds(one.way)
            if turn:  # the first round warms the caches
                times[one.name].append(taken)
    ours = times[present[0].name]
    lines = [
        f"## {title}",
        "",
        f"{megabytes:.0f} MB, median of {RUNS} processes (minimum to maximum), "
        f"Python {platform.python_version()}, {platform.machine()}",
        "",
        "| what | version | seconds | MB/s | times ours |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in present:
        own = times[one.name]
        median = statistics.median(own)
        ratio = statistics.median(other / mine for other, mine in zip(own, ours, strict=True))
        lines.append(
            f"| {one.name} | {one.package} {installed(one.package)} | "
            f"{median:.2f} ({min(own):.2f} to {max(own):.2f}) | {megabytes / median:,.0f} | {ratio:.2f} |"
        )
    lines += [
        f"\n{one.name}: not installed, not measured" for one in contenders if one not in present
    ]
    return [*lines, ""]
