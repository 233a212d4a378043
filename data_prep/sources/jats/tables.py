"""Table bodies as text: a line a row, cells apart by " | "; XHTML's model and OASIS's."""

from collections.abc import Callable, Iterator

from lxml import etree

from data_prep.sources.mathml import local_name

# A span leaves blank cells so that columns stay aligned; only so many columns are counted, because a
# span is a number that anyone can write.
_MOST_COLUMNS = 100
_SECTIONS = {"thead": 0, "tbody": 1, "tr": 1, "row": 1, "tfoot": 2}
_CELLS = ("td", "th", "entry")


def table_rows(table: etree._Element, text_of: Callable[[etree._Element], str]) -> list[str]:
    """The rows of a <table>, <tgroup> or <array>, the header's first; rows without text are left out.

    `text_of` gives a cell's text on one line. A cell that spans columns or rows stands in the first of
    them, the others are blank.
    """
    rows = []
    names = _column_names(table)
    below: dict[int, int] = {}  # column: how many more rows a cell from above covers
    for row in _rows(table):
        cells: list[str] = []
        for cell in row:
            if local_name(cell) not in _CELLS:
                continue
            _skip_covered(cells, below)
            columns, down = _span(cell, names)
            for column in range(len(cells), min(len(cells) + columns, _MOST_COLUMNS)):
                if down:
                    below[column] = down
            cells.append(text_of(cell))
            cells.extend([""] * (min(len(cells) + columns - 1, _MOST_COLUMNS) - len(cells)))
        _skip_covered(cells, below)
        if any(cells):
            rows.append(" | ".join(cells).rstrip(" |"))
    return rows


def _rows(table: etree._Element) -> Iterator[etree._Element]:
    """The rows of this table, not of those within its cells: header, body, footer."""
    parts = [child for child in table if local_name(child) in _SECTIONS]
    for part in sorted(parts, key=lambda part: _SECTIONS[local_name(part)]):
        if local_name(part) in ("tr", "row"):
            yield part
        else:
            yield from (row for row in part if local_name(row) in ("tr", "row"))


def _skip_covered(cells: list[str], below: dict[int, int]) -> None:
    """Leave blank the columns, from here on, that a cell of a row above covers."""
    while left := below.get(len(cells), 0):
        if left == 1:
            del below[len(cells)]
        else:
            below[len(cells)] = left - 1
        cells.append("")


def _span(cell: etree._Element, names: dict[str, int]) -> tuple[int, int]:
    """How many columns a cell has, and how many more rows it goes on for."""
    first, last = names.get(cell.get("namest", "")), names.get(cell.get("nameend", ""))
    columns = last - first + 1 if first is not None and last is not None else 1
    columns = max(columns, _number(cell.get("colspan")))
    down = max(_number(cell.get("rowspan")) - 1, _number(cell.get("morerows")))
    return max(1, min(columns, _MOST_COLUMNS)), down


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 6 else 0


def _column_names(table: etree._Element) -> dict[str, int]:
    specifications = [child for child in table if local_name(child) == "colspec"]
    return {element.get("colname", ""): place for place, element in enumerate(specifications)}
