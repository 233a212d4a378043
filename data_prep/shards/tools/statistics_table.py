"""Statistics of shard sets, side by side on a terminal or as JSON."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic import Field
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from data_prep.config_file import Section
from data_prep.shards.storage import Place
from data_prep.shards.tools.inspect import visible
from data_prep.shards.tools.statistics import GROUPS, Statistics, statistics

TOP = 10  # licences, years and journals that are shown


class StatisticsOptions(Section):
    as_json: bool = Field(False, alias="json")  # all of it, for programs


def show_statistics(
    places: Sequence[Place], options: StatisticsOptions, console: Console | None = None
) -> None:
    """Print a column for each set; as JSON, an object with a key for each.

    Raises DataError where a place is no shard set or damaged.
    """
    console = console or Console()
    found = {str(place): statistics(place) for place in places}
    if options.as_json:
        values = {place: one.as_json() for place, one in found.items()}
        console.file.write(json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    else:
        console.print(_table(found))


def _table(found: Mapping[str, Statistics]) -> Table:
    sets = list(found.values())
    names = [f"{one.source}-{one.split}" for one in sets]
    table = Table()
    table.add_column("")
    for name in names if len(set(names)) == len(sets) else found:
        table.add_column(Text(visible(name), overflow="fold"), justify="right")
    _add(table, [_packing(one) for one in sets])
    lengths = [{f"tokens, {name}": f"{n:,}" for name, n in one.lengths.items()} for one in sets]
    _add(table, lengths)
    _add(table, [_disk(one) for one in sets])
    for group in GROUPS:
        _add(table, _shares(group, sets))
    return table


def _add(table: Table, columns: Sequence[dict[str, str]]) -> None:
    """A section: a row for each name that a column has, in order."""
    table.add_section()
    for name in dict.fromkeys(name for column in columns for name in column):
        cells = [column.get(name, "–") for column in columns]
        table.add_row(Text(visible(name)), *map(Text, cells))


def _packing(one: Statistics) -> dict[str, str]:
    epochs = f", {one.epochs} epochs" if one.epochs > 1 else ""
    least, most = one.rows_per_row_group
    return {
        "packing": f"{one.policy}{epochs}",
        "sequence length": f"{one.sequence_length:,}",
        "documents": f"{one.documents:,}",
        "rows": f"{one.rows:,}",
        "tokens": f"{one.tokens:,}",
        "trained on": f"{one.trained_tokens / one.tokens:.1%}",
        "padding": f"{one.padding:,}",
        "filled": f"{one.fill:.3%}",
        "cuts": f"{one.cuts:,}",
        "documents cut": f"{one.cut_share:.2%}",
        "documents a row": f"{one.documents_per_row:.2f}",
        "files": f"{one.files:,}",
        "row groups": f"{one.row_groups:,}",
        "rows a row group": f"{most}" if least == most else f"{least} to {most}",
    }


def _disk(one: Statistics) -> dict[str, str]:
    columns = {
        f"{name}: on disk": f"{decimal(column.disk)} ({column.raw / column.disk:.2f} to 1)"
        for name, column in one.columns.items()
    }
    return {
        "text": decimal(one.text_bytes),
        "on disk": decimal(one.disk_bytes),
        "bytes a token": f"{one.disk_bytes_per_token:.3f}",
        "compression": f"{one.compression:.2f} to 1",
    } | columns


def _shares(group: str, sets: Sequence[Statistics]) -> list[dict[str, str]]:
    """Of each set, the share of its documents' tokens that each of the largest values has."""
    together: Counter[str] = Counter()
    for one in sets:
        together.update(one.tokens_by[group])
    largest = [value for value, _ in together.most_common(TOP)]
    columns = []
    for one in sets:
        tokens = one.tokens_by[group]
        total = sum(tokens.values())
        shown = {f"{group} {value}": tokens.get(value, 0) for value in largest}
        if len(together) > TOP:
            shown[f"{group}: {len(together) - TOP:,} others"] = total - sum(shown.values())
        columns.append({name: f"{number / total:.1%}" for name, number in shown.items()})
    return columns
