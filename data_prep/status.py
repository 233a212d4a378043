"""`python -m data_prep status`: how far a corpus is, while it is being made or afterwards.

Reads the stages' plans and the names in their folders and writes nothing, so it works from any machine that
sees the files.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from data_prep.config import CorpusConfig
from data_prep.config_file import load_config
from data_prep.documents import read_json_lines
from data_prep.errors import ConfigError
from data_prep.files import read_json
from data_prep.lock import holder
from data_prep.progress import console, duration
from data_prep.run.plan import PLAN, RUN, Plan, State, Tally, read_plan, states, tally
from data_prep.units import failures, source_of

CONFIG = "config.yaml"  # what the last run was told, in its output
# As they run; others follow.
ORDER = (
    "extract",
    "identify",
    "signatures",
    "near_duplicates",
    "decontaminate",
    "curate",
    "tokenizer",
    "pack",
    "shards",
    "instruct",
    "instruct-sets",
)
SHOWN = 20  # failed units of a stage
LARGEST_MANIFEST = 64_000_000  # bytes; read in about a second, and this answers at once
COLUMNS = ("stage", "done", "failed", "running", "to do", "input", "", "a second", "left")
NAME_WIDTH = 17  # characters, so that a row fits into a terminal of 80
DAY_S = 86_400


def show_status(target: Path) -> None:
    """Print where each stage of a corpus stands; `target` is its config or its output folder.

    Raises ConfigError where neither is there.
    """
    output, folders = _folders(target)
    _tell_owner(output)
    table = _empty_table()
    failed: dict[Path, dict[str, str]] = {}
    runs: list[tuple[str, dict[str, Any]]] = []
    for folder in _in_order(folders):
        plan = read_plan(folder)
        if plan is not None:
            run = _read_run(folder)
            runs.append((plan.stage, run))
            for row in _rows(folder, plan, run):
                table.add_row(*map(escape, row))
        failed[folder] = failures(folder)
    _tell_runs(runs)
    _tell_downloads([folder for folder in folders if folder.name == "download"])
    if table.row_count:
        console.print(table)
    else:
        console.print("no stage has begun to work on units yet")
    for folder, reasons in failed.items():
        _tell_failed(folder, reasons)


def _folders(target: Path) -> tuple[Path, list[Path]]:
    """The output folder, and the folders that stages may have written into."""
    path = target / CONFIG if target.is_dir() else target
    if not path.exists():
        if target.is_dir() and any(target.glob(f"*/{PLAN}")):
            return target, sorted(folder for folder in target.iterdir() if folder.is_dir())
        raise ConfigError(
            f"{target}: expected a corpus config, or the output folder of one that was begun"
        )
    config = load_config(CorpusConfig, path)
    output = target if target.is_dir() else config.output
    if not output.is_dir():
        raise ConfigError(f"output: {output} is not there yet: nothing was begun")
    folders = [folder for folder in output.iterdir() if folder.is_dir()]
    if config.raw:
        folders += [config.downloads, config.extracted]
    if config.instruct:
        folders.append(config.instruct.output)
    return output, sorted(set(folders))


def _in_order(folders: Iterable[Path]) -> list[Path]:
    def place(folder: Path) -> int:
        return ORDER.index(folder.name) if folder.name in ORDER else len(ORDER)

    return sorted((folder for folder in folders if folder.is_dir()), key=place)


def _read_run(folder: Path) -> dict[str, Any]:
    try:
        return dict(read_json(folder / RUN))
    except (OSError, ValueError):
        return {}


def _tell_owner(output: Path) -> None:
    try:
        owner = holder(output)
    except OSError:
        console.print(
            f"{output}: this file system does not tell whether a run is going on", soft_wrap=True
        )
        return
    if owner is None:
        console.print(
            f"{output}: no run is going on", highlight=False, markup=False, soft_wrap=True
        )
        return
    job = f", job {owner['job']}" if owner.get("job") else ""
    text = f"{output}: run by process {owner['pid']} on {owner['host']}{job}"
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _tell_runs(runs: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Where the stages were run last, a line for each way; and those whose run has not come to its end."""
    stages: dict[str, list[str]] = {}
    for stage, run in runs:
        if run:
            way = f"{run['executor']}, {run['workers']} at once"
            stages.setdefault(way, []).append(stage if "ended" in run else f"{stage} (not ended)")
    for way, names in stages.items():
        console.print(f"{way}: {', '.join(names)}", highlight=False, markup=False, soft_wrap=True)


def _empty_table() -> Table:
    table = Table(box=None, pad_edge=False)
    name, *numbers = COLUMNS
    table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=NAME_WIDTH)
    for title in numbers:
        table.add_column(title, no_wrap=True, justify="right")
    return table


def _rows(folder: Path, plan: Plan, run: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    found = states(folder, plan)
    whole = tally(plan, found)
    yield _row(plan.stage, whole, *_speed(whole, plan, run))
    sources = sorted({source_of(unit) for unit in plan.units})
    if len(sources) > 1 and set(found.values()) != {"done"}:
        for source in sources:
            yield _row(f"  {source}", tally(plan, found, source), "", "")


def _row(name: str, found: Tally, rate: str, left: str) -> tuple[str, ...]:
    def count(state: State) -> str:
        return f"{found.units.get(state, 0):,}"

    size = sum(found.bytes.values())
    part = f"{100 * found.bytes.get('done', 0) // size} %" if size else ""
    counts = (count("done"), count("failed"), count("running"), count("to do"))
    return (name, *counts, decimal(size), part, rate, left)


def _speed(found: Tally, plan: Plan, run: Mapping[str, Any]) -> tuple[str, str]:
    """Bytes a second of the last run, and what it has left at that rate."""
    if "began" not in run:
        return "", ""
    size = sum(plan.units.values())
    ended = found.ended[1]
    seconds = run.get("ended", time.time()) - run["began"]
    rate = (ended - (size - run["to_do_bytes"])) / seconds if seconds > 0 else 0.0
    if rate <= 0:
        return "", ""
    left = _short((size - ended) / rate) if size > ended else ""
    return decimal(round(rate)), left


def _short(seconds: float) -> str:
    """h:mm:ss, or days and hours."""
    if seconds < DAY_S:
        return duration(seconds)
    days, rest = divmod(round(seconds), DAY_S)
    return f"{days} d {rest // 3600} h"


def _tell_downloads(folders: Iterable[Path]) -> None:
    for manifest in sorted(path for folder in folders for path in folder.glob("*/manifest.jsonl")):
        size = manifest.stat().st_size
        if size > LARGEST_MANIFEST:
            console.print(
                f"download {manifest.parent.name}: listed in {manifest} ({decimal(size)})"
            )
            continue
        rows = list(read_json_lines(manifest))
        good = [row for row in rows if row["state"] == "ok"]
        text = (
            f"download {manifest.parent.name}: {len(good):,} files, "
            f"{decimal(sum(row['bytes'] for row in good))}; {len(rows) - len(good):,} failed"
        )
        console.print(text, highlight=False, soft_wrap=True)


def _tell_failed(folder: Path, reasons: Mapping[str, str]) -> None:
    for unit, reason in list(reasons.items())[:SHOWN]:
        first = (reason.strip().splitlines() or [""])[-1 if reason.startswith("Traceback") else 0]
        text = f"{folder.name} {unit}: {first}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    if len(reasons) > SHOWN:
        console.print(f"{folder.name}: {len(reasons) - SHOWN} more in {folder / 'failed'}")
