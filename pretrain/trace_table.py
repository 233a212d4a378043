"""What a trace found, as tables for a terminal."""

from collections.abc import Sequence

from rich.table import Table

from pretrain.trace import DocumentRow, TracedRow, Turn

MOST = 12  # turns written out in a cell


def step_table(number: int, rows: Sequence[TracedRow]) -> Table:
    """One line for each piece of a document; a row's place stands on its first."""
    table = Table(title=f"step {number:,}: {len(rows):,} rows")
    for heading in (
        "source",
        "file",
        "group",
        "row",
        "epoch",
        "document",
        "tokens",
        "pmid",
        "pmcid",
        "licence",
    ):
        table.add_column(heading, overflow="fold")
    for row in rows:
        place = [row.source, _name(row.file), str(row.row_group), str(row.row), str(row.epoch)]
        if row.left_out is not None:
            table.add_row(*place, f"left out: {row.left_out}", style="red")
        for piece in row.documents:
            tokens = f"{piece.offset:,} to {piece.offset + piece.length:,}"
            about = [_text(piece.pmid), _text(piece.pmcid), _text(piece.licence)]
            table.add_row(*place, piece.id, tokens, *about)
            place = [""] * len(place)
    return table


def document_table(name: str, done: int, rows: Sequence[DocumentRow]) -> Table:
    """One line for each row of the document."""
    table = Table(title=f"{name} in a run that has done {done:,} steps")
    for heading in ("document", "source", "file", "group", "row", "pmid", "pmcid", "licence"):
        table.add_column(heading, overflow="fold")
    for heading in ("seen at step", "to come at", "skipped after", "left out at"):
        table.add_column(heading)
    for row in rows:
        about = [_text(row.pmid), _text(row.pmcid), _text(row.licence)]
        turns = [_turns(of) for of in (row.seen, row.to_come, row.skipped, row.left_out)]
        place = [_name(row.file), str(row.row_group), str(row.row)]
        table.add_row(row.document, row.source, *place, *about, *turns)
    return table


def _turns(turns: Sequence[Turn]) -> str:
    listed = [f"{turn.step:,}" for turn in turns[:MOST]]
    return "\n".join([*listed, *(["…"] if len(turns) > MOST else [])])


def _name(file: str) -> str:
    return file.rpartition("/")[2]


def _text(value: object) -> str:
    return "" if value is None else str(value)
