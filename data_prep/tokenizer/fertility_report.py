"""What `python -m data_prep fertility` shows and writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data_prep.files import write_json
from data_prep.tokenizer.fertility import measure

FILE = "fertility.json"


def report_fertility(output: Path, folders: Sequence[Path]) -> None:
    """Measure, show tables, and write OUTPUT/fertility.json. Raises what `measure` raises."""
    figures = measure(output, folders)
    console = Console()
    console.print(_rates(figures))
    console.print(_domain_words(figures))
    for about in figures["tokenizers"]:
        name = about["name"]
        if examples := about["whole_in_the_corpus_only"]:
            console.print(
                escape(f"whole in the corpus's tokenizer, not in {name}: {', '.join(examples)}")
            )
    path = output / FILE
    write_json(path, figures)
    print(path)


def _rates(figures: dict[str, Any]) -> Table:
    table = Table("source", "language", "tokenizer", title="Fertility")
    for title in ("tokens a word", "tokens a character", "bytes a token"):
        table.add_column(title, justify="right")
    for place, sample in enumerate(figures["sample"]):
        for about in figures["tokenizers"]:
            group = about["groups"][place]
            table.add_row(
                escape(sample["source"]),
                escape(sample["language"]),
                escape(about["name"]),
                _number(group["tokens_per_word"]),
                _number(group["tokens_per_character"]),
                _number(group["bytes_per_token"]),
            )
    return table


def _domain_words(figures: dict[str, Any]) -> Table:
    origin, number = figures["domain_words"]["origin"], figures["domain_words"]["number"]
    table = Table("tokenizer", title=f"{number:,} domain words ({origin})")
    for title in ("entries", "whole words", "share"):
        table.add_column(title, justify="right")
    for about in figures["tokenizers"]:
        share = about["whole_share"]
        table.add_row(
            escape(about["name"]),
            f"{about['vocabulary_size']:,}",
            f"{about['whole_words']:,}",
            "–" if share is None else f"{share:.1%}",
        )
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
