"""The corpus card as Markdown: CARD.md in the corpus's folder."""

from collections import defaultdict
from pathlib import Path

from data_prep.card.figures import UNKNOWN, CorpusFigures, Tally, read_corpus
from data_prep.files import write_atomically
from data_prep.templates import render

CARD = "CARD.md"
TEMPLATE = Path(__file__).with_name("card.md.jinja")
ROWS = 20  # of a table; the rest is summed in a last one
LINE = 120  # characters of a title or a reason


def write_card(folder: Path) -> Path:
    """Write the card of the corpus in `folder`. Raises ConfigError where it is no corpus."""
    card = folder / CARD
    text = render_card(read_corpus(folder))
    with write_atomically(card) as partial:
        partial.write_text(text, encoding="utf-8")
    return card


def render_card(figures: CorpusFigures) -> str:
    """The card's text."""
    values = {"figures": figures, "share": share, "top": top, "decades": decades}
    return render(TEMPLATE, values, cell=cell, line=line)


def top(tally: Tally) -> list[tuple[str, list[int]]]:
    """The largest entries of a tally and what the others make together."""
    rows = sorted(tally.items(), key=lambda row: (-row[1][0], row[0]))
    rest = rows[ROWS:]
    if len(rest) < 2:
        return rows
    documents, amount = (sum(one[place] for _, one in rest) for place in (0, 1))
    return [*rows[:ROWS], (f"{len(rest):,} others", [documents, amount])]


def decades(years: dict[str, Tally]) -> Tally:
    """[documents, tokens] of all sources by decade: "1990 to 1999"."""
    sums: Tally = defaultdict(lambda: [0, 0])
    for tally in years.values():
        for year, (documents, tokens) in tally.items():
            first = int(year) // 10 * 10 if year != UNKNOWN else None
            name = UNKNOWN if first is None else f"{first} to {first + 9}"
            sums[name][0] += documents
            sums[name][1] += tokens
    return dict(sums)


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "none"


def cell(text: object) -> str:
    """Text that cannot end a table's cell."""
    return line(text).replace("|", "\\|")


def line(text: object) -> str:
    """Text on one line, shortened."""
    words = " ".join(str(text).split())
    return words if len(words) <= LINE else words[: LINE - 1] + "…"
