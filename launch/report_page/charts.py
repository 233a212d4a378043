"""Charts as SVG that takes its colours from the page, so that it is readable on light and on dark."""

import io
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from data_prep.card.figures import UNKNOWN, CorpusFigures
from launch.report_page.runs import RunFigures

# Stand-ins that matplotlib writes and the page's CSS variables replace.
INK, FAINT, BACKGROUND = "#010101", "#020202", "#030303"
SERIES = ["#010110", "#010120", "#010130", "#010140", "#010150", "#010160"]
_VARIABLES = {INK: "--ink", FAINT: "--line", BACKGROUND: "--surface"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES, start=1)
}
_FONT = re.compile(r"font-family: [^;\"]*")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and copied
    "text.parse_math": False,  # names of sources and runs are shown as they are
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
WIDTH = 9.0  # inches at 72 points: the page scales the drawing to its column
_RECENT_YEARS = 40  # older ones are summed into one bar, so that labels stay readable


def _svg(name: str, height: float, columns: int, draw: Callable[[Sequence[Axes]], None]) -> str:
    with rc_context(_STYLE | {"svg.hashsalt": name, "svg.id": name}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False)[0]
        draw(axes)
        written = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written, format="svg", metadata=nothing)
    text = written.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'aria-hidden="true"', text, count=1)
    # Matplotlib numbers the parts of each figure alike; ids must differ within one page.
    text = re.sub(r' id="(?!m[0-9a-f]{10}"|p[0-9a-f]{10}")[^"]*"', "", text)
    text = _FONT.sub("font-family: inherit", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text


def years(corpus: CorpusFigures) -> str:
    """Documents and tokens by year, stacked by source."""
    labels, values = by_year(corpus)
    places = _places(labels)
    apart = max(1, -(-places[-1] // 7))  # places between labels that do not touch
    ticks = [len(labels) - 1]
    for tick in reversed(range(len(labels))):
        if places[ticks[-1]] - places[tick] >= apart:
            ticks.append(tick)

    def draw(axes: Sequence[Axes]) -> None:
        for place, title in enumerate(("Documents", "Tokens")):
            bottoms = [0] * len(labels)
            for colour, (source, entries) in zip(
                itertools.cycle(SERIES), values.items(), strict=False
            ):
                heights = [entry[place] for entry in entries]
                axes[place].bar(places, heights, bottom=bottoms, color=colour, label=source)
                bottoms = [low + high for low, high in zip(bottoms, heights, strict=True)]
            axes[place].set_title(f"{title} by year of publication")
            axes[place].yaxis.set_major_formatter(EngFormatter(sep=""))
            axes[place].grid(visible=False, axis="x")
            axes[place].set_xticks(
                [places[tick] for tick in ticks], [labels[tick] for tick in ticks]
            )
        axes[0].legend()

    return _svg("years", 2.8, 2, draw)


def _places(labels: Sequence[str]) -> list[int]:
    """Where each year's bar stands: an empty place where years are left out between two."""
    places = [0]
    for before, label in itertools.pairwise(labels):
        follows = not (before.isdigit() and label.isdigit()) or int(label) == int(before) + 1
        places.append(places[-1] + (1 if follows else 2))
    return places


def by_year(corpus: CorpusFigures) -> tuple[list[str], dict[str, list[list[int]]]]:
    """Labels of the years, oldest first, and for each source [documents, tokens] of each.

    More years than fit are summed into "< <year>".
    """
    known = sorted({year for tally in corpus.years.values() for year in tally} - {UNKNOWN})
    old, shown = known[:-_RECENT_YEARS], known[-_RECENT_YEARS:]
    groups = {f"< {shown[0]}": old} if old else {}
    groups |= {year: [year] for year in shown} | {UNKNOWN: [UNKNOWN]}
    values = {
        source: [
            [sum(tally.get(year, (0, 0))[place] for year in group) for place in (0, 1)]
            for group in groups.values()
        ]
        for source, tally in corpus.years.items()
    }
    filled = [any(sum(entries[k]) for entries in values.values()) for k in range(len(groups))]
    labels = [label for label, used in zip(groups, filled, strict=True) if used]
    return labels, {
        source: [entry for entry, used in zip(entries, filled, strict=True) if used]
        for source, entries in values.items()
    }


def lengths(corpus: CorpusFigures) -> str:
    """Documents by length in tokens, in bins of powers of two."""
    bins = sorted({low for counter in corpus.lengths.values() for low in counter})
    labels = [f"{low:,}" for low in bins]

    def draw(axes: Sequence[Axes]) -> None:
        bottoms = [0] * len(bins)
        for colour, (source, counter) in zip(
            itertools.cycle(SERIES), corpus.lengths.items(), strict=False
        ):
            heights = [counter[low] for low in bins]
            axes[0].bar(labels, heights, bottom=bottoms, color=colour, label=source)
            bottoms = [low + high for low, high in zip(bottoms, heights, strict=True)]
        axes[0].set_ylabel("documents")
        axes[0].set_xlabel("tokens in a document: at least this, less than twice this")
        axes[0].yaxis.set_major_formatter(EngFormatter(sep=""))
        axes[0].grid(visible=False, axis="x")
        axes[0].legend()

    return _svg("lengths", 2.8, 1, draw)


def dropped(corpus: CorpusFigures) -> str:
    """How many records each stage dropped for each reason."""
    rows = sorted(corpus.dropped.items(), key=lambda row: row[1])
    names = [f"{stage}: {reason.replace('_', ' ')}" for (stage, reason), _ in rows]
    numbers = [number for _, number in rows]

    def draw(axes: Sequence[Axes]) -> None:
        bars = axes[0].barh(names, numbers, color=SERIES[0], height=0.6)
        axes[0].bar_label(bars, [f"{number:,}" for number in numbers], padding=4)
        axes[0].margins(x=0.12)
        axes[0].grid(visible=False, axis="y")
        axes[0].xaxis.set_major_formatter(EngFormatter(sep=""))
        axes[0].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes[0].set_xlabel("records")

    return _svg("dropped", 0.9 + 0.28 * len(rows), 1, draw)


def loss(run: RunFigures) -> str:
    """Training loss, validation loss of each source, and where the run was resumed."""

    def draw(axes: Sequence[Axes]) -> None:
        steps = [line["step"] for line in run.training]
        losses = [line["loss"] for line in run.training]
        axes[0].plot(steps, losses, color=SERIES[0], linewidth=1.2, label="training")
        colours = itertools.cycle(SERIES[1:])
        for source, colour in zip(run.sources, colours, strict=False):
            validated = run.validated(source)
            axes[0].plot(
                [line["step"] for line in validated],
                [line["loss"] for line in validated],
                color=colour,
                marker="o",
                markersize=4,
                linewidth=1.2,
                label=f"validation: {source}",
            )
        for number, line in enumerate(run.resumed):
            label = "resumed" if number == 0 else None
            axes[0].axvline(line["step"], color=INK, linestyle=":", linewidth=1, label=label)
        axes[0].set_xlabel("step")
        axes[0].set_ylabel("loss (nats a token)")
        axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0].legend()

    return _svg(f"loss-{run.name}", 3.2, 1, draw)


def throughput(run: RunFigures) -> str:
    """Tokens a second at every step."""

    def draw(axes: Sequence[Axes]) -> None:
        steps = [line["step"] for line in run.training]
        rates = [line["tokens_per_second"] for line in run.training]
        axes[0].plot(steps, rates, color=SERIES[0], linewidth=1.2)
        axes[0].set_ylim(bottom=0)
        axes[0].set_xlabel("step")
        axes[0].set_ylabel("tokens a second")
        axes[0].yaxis.set_major_formatter(EngFormatter(sep=""))
        axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))

    return _svg(f"throughput-{run.name}", 2.2, 1, draw)
