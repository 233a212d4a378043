"""What a trace found, as tables for a terminal. A row is `row group:row`, counted in its file."""

from collections.abc import Callable, Sequence

from rich.table import Table

from pretrain.tracing.trace import DocumentRow, Piece, TracedRow, Turn

MOST = 12  # turns written out in a cell
LONGEST_NAME = 16
# What a document's row has of turns, by the heading of a column, which stands where there are any.
TURNS: dict[str, Callable[[DocumentRow], Sequence[Turn]]] = {
    "seen at step": lambda row: row.seen,
    "to come at": lambda row: row.to_come,
    "skipped after": lambda row: row.skipped,
    "left out at": lambda row: row.left_out,
}


def step_table(number: int, rows: Sequence[TracedRow]) -> Table:
    """One line for each piece of a document; a row's place stands on its first."""
    table = Table(title=f"step {number:,}: {len(rows):,} rows")
    for heading in ("source", "file", "row", "epoch"):
        table.add_column(heading, no_wrap=True)
    for heading in ("document", "tokens", "licence"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        place = [row.source, _name(row.file), f"{row.row_group}:{row.row}", str(row.epoch)]
        if row.left_out is not None:
            table.add_row(*place, f"left out: {row.left_out}", style="red")
        for piece in row.documents:
            tokens = f"{piece.offset:,}–{piece.offset + piece.length:,}"
            table.add_row(*place, _names(piece), tokens, _text(piece.licence))
            place = [""] * len(place)
    return table


def document_table(name: str, done: int, rows: Sequence[DocumentRow]) -> Table:
    """One line for each row of the document."""
    table = Table(title=f"{name} in a run that has done {done:,} steps")
    turns = {heading: [_turns(part(row)) for row in rows] for heading, part in TURNS.items()}
    turns = {heading: cells for heading, cells in turns.items() if any(cells)}
    for heading in ("document", "source", "file", "row", "licence", *turns):
        table.add_column(heading, overflow="fold")
    for number, row in enumerate(rows):
        place = [row.source, _name(row.file), f"{row.row_group}:{row.row}"]
        steps = [cells[number] for cells in turns.values()]
        table.add_row(_names(row), *place, _text(row.licence), *steps)
    return table


def _turns(turns: Sequence[Turn]) -> str:
    listed = [f"{turn.step:,}" for turn in turns[:MOST]]
    return "\n".join([*listed, *(["…"] if len(turns) > MOST else [])])


def _names(piece: Piece | DocumentRow) -> str:
    """The id, and what else the article is known by."""
    name = piece.document if isinstance(piece, DocumentRow) else piece.id
    others = [
        f"pmid:{piece.pmid}" if piece.pmid else "",
        f"pmcid:{piece.pmcid}" if piece.pmcid else "",
    ]
    return "\n".join([name, *(other for other in others if other not in ("", name))])


def _name(file: str) -> str:
    """Of a shard, short enough for a table."""
    name = file.rpartition("/")[2].removesuffix(".parquet")
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _text(value: object) -> str:
    return "" if value is None else str(value)
