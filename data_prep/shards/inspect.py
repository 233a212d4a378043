"""Shows what is in a shard set: its manifest, and rows as text with the documents in them."""

from itertools import pairwise
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_prep.shards.manifest import TOKENIZER_FOLDER, Manifest
from data_prep.shards.reader import RowGroup, ShardSet
from data_prep.tokenizer.encode import Encoder, load_encoder


def inspect(folder: Path, rows: int = 3, console: Console | None = None) -> None:
    """Print the manifest and the first `rows` rows; tokens that are not trained on are dim.

    Raises DataError where the folder is no shard set or was changed.
    """
    console = console or Console()
    shards = ShardSet(folder)
    encoder = load_encoder(folder / TOKENIZER_FOLDER)
    console.print(_manifest_table(shards.manifest))
    shown = 0
    for group in range(len(shards.row_groups)):
        if shown >= rows:
            return
        content, ids = shards.read(group), shards.document_ids(group)
        for row in range(min(rows - shown, len(ids))):
            console.print(_row_text(content, row, shown, ids[row], encoder))
            shown += 1


def _manifest_table(manifest: Manifest) -> Table:
    counts = manifest.counts
    places = counts["tokens"] + counts["padding"]
    table = Table(title=f"{manifest.source}-{manifest.split}", show_header=False)
    for name, number in counts.items():
        table.add_row(name, f"{number:,}")
    table.add_row("filled", f"{counts['tokens'] / places:.3%}")
    table.add_row("sequence length", f"{manifest.sequence_length:,}")
    table.add_row("policy", manifest.policy)
    table.add_row("vocabulary", f"{manifest.vocabulary_size:,}")
    table.add_row("begin, end, pad", f"{_begin(manifest)}, {manifest.end_id}, {manifest.pad_id}")
    table.add_row("loss mask", "yes" if manifest.has_loss_mask else "no")
    table.add_row("files", str(len(manifest.files)))
    table.add_row("missing", ", ".join(manifest.missing) or "nothing")
    table.add_row("tokenizer", manifest.tokenizer_fingerprint[:16])
    table.add_row("hash", manifest.hash[:16])
    return table


def _begin(manifest: Manifest) -> str:
    return str(manifest.begin_id) if manifest.begin_token else "not used"


def _row_text(content: RowGroup, row: int, number: int, ids: list[str], encoder: Encoder) -> Text:
    text = Text(f"\nrow {number}", style="bold")
    column = 0
    for piece, name in zip(range(*content.starts[row : row + 2]), ids, strict=True):
        offset, length = int(content.offsets[piece]), int(content.lengths[piece])
        text.append(f"\n── {name}  tokens {offset:,} to {offset + length:,}\n", style="cyan")
        places = slice(column, column + length)
        mask = None if content.loss_mask is None else content.loss_mask[row, places]
        text.append_text(_piece_text(content.tokens[row, places], mask, encoder))
        column += length
    padding = content.tokens.shape[1] - column
    if padding:
        text.append(f"\n── padding: {padding:,} places", style="cyan")
    return text


def _piece_text(tokens: np.ndarray, mask: np.ndarray | None, encoder: Encoder) -> Text:
    """The tokens as text, in runs of equal mask, because a letter may be several tokens."""
    if mask is None:
        return Text(encoder.decode(tokens), style="default not bold")
    text = Text()
    seams = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), len(tokens)]
    for begin, end in pairwise(seams):
        style = "default not bold" if mask[begin] else "dim not bold"
        text.append(encoder.decode(tokens[begin:end]), style=style)
    return text
