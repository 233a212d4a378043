"""The stages in their order, and what a user is told after each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.config import CorpusConfig
from data_prep.errors import ConfigError, DataError
from data_prep.progress import console
from data_prep.run.plan import read_plan, states
from data_prep.run.server import start_server
from data_prep.units import Stage, finished, source_of

if TYPE_CHECKING:
    from data_prep.run.executor import StageReport

# What a stage needs is imported where it is run: together it takes half a second.
CORPUS = ("download", "extract", "curate", "tokenizer", "pack")
NAMES = (*CORPUS, "instruct", "all")
GROUP_SIZE = 8  # parts of a group that are shown: enough for every reason to drop a document


def _stages(name: str, config: CorpusConfig) -> list[Callable[[CorpusConfig], Stage]]:
    """The stages that what a user types runs; a reduce belongs to the stage that needs it."""
    if name == "extract":
        from data_prep.extract.stage import ExtractStage

        return [ExtractStage]
    if name == "curate":
        return _curation(config)
    if name == "tokenizer":
        from data_prep.tokenizer.train import TokenizerStage

        return [TokenizerStage]
    from data_prep.shards.build import PackStage, ShardSetStage

    return [PackStage, ShardSetStage]


def _curation(config: CorpusConfig) -> list[Callable[[CorpusConfig], Stage]]:
    """Each step decides about what those before it keep; the last does what they say."""
    from data_prep.curate.decontaminate import DecontaminateStage
    from data_prep.curate.identity import IdentifyStage
    from data_prep.curate.near_duplicates import NearDuplicatesStage
    from data_prep.curate.signatures import SignaturesStage
    from data_prep.curate.stage import CurateStage

    steps: list[Callable[[CorpusConfig], Stage]] = [IdentifyStage]
    if config.curate.near_duplicates:
        steps += [SignaturesStage, NearDuplicatesStage]
    if config.curate.decontaminate:
        steps.append(DecontaminateStage)
    return [*steps, CurateStage]


def run(name: str, config: CorpusConfig, allow_failed: bool) -> None:
    """Run a stage, or `all` of the corpus, download to pack.

    Raises DataError at the end of a stage in which units failed, unless `allow_failed`.
    """
    names = CORPUS if name == "all" else (name,)
    if "download" in names and not config.sources:
        raise ConfigError("sources: none is given; name at least one to make a corpus from")
    if "curate" in names:
        _check_curation(config)
    if config.executor == "local" and names != ("download",):
        start_server(name for name in names if name != "download")
    if "tokenizer" in names:
        from data_prep.shards.build import check_tokenizer

        check_tokenizer(config)
    for stage in names:
        for report in _reports(stage, config):
            _tell(report)
            if report.failed and not allow_failed:
                raise DataError(
                    f"{report.stage}: {len(report.failed)} failed (above); mend the input and run the same "
                    "command again, or go on without them with --allow-failed"
                )


def _check_curation(config: CorpusConfig) -> None:
    """Raise now what curation would raise hours later."""
    from data_prep.curate.benchmarks import read_benchmark
    from data_prep.curate.since import find_earlier

    if config.curate.since:
        find_earlier(config.curate.since, config.output)
    for benchmark in config.curate.decontaminate.benchmarks if config.curate.decontaminate else ():
        read_benchmark(benchmark)


def _reports(name: str, config: CorpusConfig) -> Iterator[StageReport]:
    if name == "download":
        from data_prep.download.stage import download

        yield download(config)
        return
    from data_prep.run.executor import executor_of, run_stage

    executor = executor_of(config)
    if name == "instruct":
        from data_prep.instruct.sets import make_instruct_sets
        from data_prep.instruct.stage import instruct_section

        yield from make_instruct_sets(config, executor)
        _tell_packing(instruct_section(config).output)
        return
    _check_stage_before(name, config)
    for make in _stages(name, config):
        stage = make(config)
        report = run_stage(stage, executor)
        yield report
        if not (report.done or report.ran or report.failed):
            raise DataError(
                f"{stage.name}: found nothing to work on; run the stage before it first, or, where it "
                "kept no document, see in its counts why"
            )
        _tell_counts(stage)
    if name == "pack":
        from data_prep.card.markdown import write_card

        _tell_packing(config.output / "shards")
        console.print(f"the corpus card: {write_card(config.output)}", soft_wrap=True)


def _check_stage_before(name: str, config: CorpusConfig) -> None:
    """Refuse to go on from a stage that was stopped: what it left undone would be missing unnamed."""
    if name == "extract":
        return
    directory = config.extracted if name == "curate" else config.output / "curate"
    plan = read_plan(directory)
    if plan is None:
        return
    left = [
        unit
        for unit, state in states(directory, plan).items()
        if state not in ("done", "failed") and source_of(unit) in config.sources
    ]
    if left:
        raise DataError(
            f"{plan.stage}: {len(left)} of {len(plan.units)} units are not done (it was stopped); "
            f"run {plan.stage} again, then {name}"
        )


def _tell(report: StageReport) -> None:
    parts = [f"{len(report.ran)} done"]
    if report.done:
        parts.append(f"{len(report.done)} were done before")
    if report.failed:
        parts.append(f"{len(report.failed)} failed")
    console.print(f"[bold]{report.stage}[/bold]  {', '.join(parts)}", highlight=False)
    for unit, reason in report.failed.items():
        console.print(f"  {unit}: {reason}", highlight=False, markup=False, soft_wrap=True)


def _tell_counts(stage: Stage) -> None:
    rows = dict(_rows(total([result.counts for result in finished(stage.directory)])))
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        # Wide lines are the terminal's to wrap, so that a log or a search has each whole.
        console.print(f"  {name:{width}}  {value}", highlight=False, markup=False, soft_wrap=True)


def _tell_packing(sets: Path) -> None:
    from data_prep.shards.counts import ShardCounts

    for result in finished(sets):
        line = f"  {result.name}  {ShardCounts.of(result.counts).summary()}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def total(counts: list[dict[str, Any]]) -> dict[str, Any]:
    """Numbers added up key by key; what is no number is left out."""
    totals: dict[str, Any] = {}
    for one in counts:
        for key, value in one.items():
            if isinstance(value, dict):
                totals[key] = total([totals.get(key, {}), value])
            elif isinstance(value, int | float) and not isinstance(value, bool):
                totals[key] = totals.get(key, 0) + value
    return totals


def _rows(totals: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Plain numbers, and groups of them on a line each; histograms are left to the report."""
    for name, value in totals.items():
        if not isinstance(value, dict):
            yield name, f"{value:,}"
            continue
        parts = {key: part for key, part in value.items() if part}
        if parts and not any(
            isinstance(part, dict) or key.isdigit() for key, part in parts.items()
        ):
            yield name, _group(parts)


def _group(parts: dict[str, Any]) -> str:
    """All parts of a group, or the largest and how much the others make."""
    largest = sorted(parts, key=lambda key: -parts[key])[:GROUP_SIZE]
    shown = [f"{key}: {number:,}" for key, number in parts.items() if key in largest]
    rest = [number for key, number in parts.items() if key not in largest]
    return ", ".join([*shown, f"{len(rest)} others: {sum(rest):,}"] if rest else shown)
