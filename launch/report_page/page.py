"""Puts figures, charts and text together as one HTML file that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.card.figures import CorpusFigures
from data_prep.card.markdown import top
from data_prep.templates import render
from launch.report_page import charts
from launch.report_page.runs import RunFigures

TEMPLATE = Path(__file__).with_name("report.html.jinja")


@dataclass(frozen=True)
class Samples:
    """What one model wrote."""

    model: str
    answers: Sequence[Mapping[str, str]]  # prompt, greedy, sampled


def render_page(
    title: str,
    corpus: CorpusFigures | None,
    runs: Sequence[RunFigures],
    evaluation: Mapping[str, Any] | None,
    samples: Sequence[Samples],
    origins: Mapping[str, str],
) -> str:
    """The whole page. `origins` names the file or folder that each part comes from; a part that was not
    given says so."""
    values = {
        "title": title,
        "corpus": corpus,
        "runs": runs,
        "evaluation": evaluation,
        "perplexity": _before_and_after(evaluation, "perplexity", ("source",)),
        "tasks": _before_and_after(evaluation, "tasks", ("task", "metric")),
        "samples": samples,
        "origins": origins,
        "charts": charts,
        "top": top,
    }
    return render(
        TEMPLATE,
        values,
        autoescape=True,
        decimal=lambda value, places: f"{value:,.{places}f}",
    )


def _before_and_after(
    evaluation: Mapping[str, Any] | None, part: str, keys: Sequence[str]
) -> list[dict[str, Any]]:
    """One entry for each thing measured: its keys, and the scores by model."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for score in (evaluation or {}).get(part, []):
        row = rows.setdefault(tuple(score[key] for key in keys), {"scores": {}})
        row |= {key: score[key] for key in keys}
        row["scores"][score["model"]] = score
    return list(rows.values())
