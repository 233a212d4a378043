"""Shows what is in a shard set: its manifest, and rows as text with the documents in them."""

import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from pydantic import Field, model_validator
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_prep.config_file import Section
from data_prep.errors import ConfigError
from data_prep.shards.counts import ShardCounts
from data_prep.shards.manifest import DOCUMENTS_FILE, TOKENIZER_FOLDER, Manifest
from data_prep.shards.reader import RowGroup, ShardSet
from data_prep.shards.storage import Place, local_folder, storage_of
from data_prep.tokenizer.encode import Encoder, load_encoder

ROWS = 3  # what fits on a screen or two
# Embeddings, overrides and isolates (Unicode Annex 9), which turn the direction of what follows them.
TURNS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})


class InspectOptions(Section):
    """Which rows are shown: from `row` on, or those that hold `document`."""

    row: int | None = Field(None, ge=0)
    rows: int | None = Field(None, ge=0)  # none: 3, or all of the document
    document: str | None = None  # its id

    @model_validator(mode="after")
    def _one_of_both(self) -> "InspectOptions":
        if self.row is not None and self.document is not None:
            raise ValueError("document: shows rows of its own; leave --row out")
        return self


def inspect(place: Place, options: InspectOptions, console: Console | None = None) -> None:
    """Print the manifest and rows; tokens that are not trained on are dim.

    Raises DataError where the folder is no shard set or was changed, ConfigError where it has no such document,
    or not so many rows.
    """
    console = console or Console()
    folder = local_folder(storage_of(place))
    shards = ShardSet(folder)
    rows = _chosen(shards, options)
    encoder = load_encoder(folder / TOKENIZER_FOLDER)
    console.print(_manifest_table(shards.manifest))
    for text in _texts(shards, rows, encoder, options.document):
        console.print(text)


def _chosen(shards: ShardSet, options: InspectOptions) -> list[int]:
    """The set's numbers of the rows to show, in order."""
    if options.document is not None:
        found = shards.listed(pc.field("id") == options.document, ["rows"])
        if not found.num_rows:
            raise ConfigError(
                f"document: {options.document} is not in {shards.folder}; its {DOCUMENTS_FILE} lists those that are"
            )
        return found["rows"][0].as_py()[: options.rows]
    total, first = int(shards.row_groups.sum()), options.row or 0
    if first >= total:
        raise ConfigError(
            f"row: {first} is not in {shards.folder}: it has {total}, numbered from 0"
        )
    rows = ROWS if options.rows is None else options.rows
    return list(range(first, min(first + rows, total)))


def _texts(
    shards: ShardSet, rows: list[int], encoder: Encoder, document: str | None
) -> Iterator[Text]:
    ends = np.cumsum(shards.row_groups)
    groups = np.searchsorted(ends, rows, side="right").tolist()
    read = None
    for row, group in zip(rows, groups, strict=True):
        if group != read:
            content, ids = shards.read(group), shards.document_ids(group)
            read = group
        within = row - int(ends[group] - shards.row_groups[group])
        text = Text(f"\nrow {row}{_whereabouts(shards, group)}", style="bold")
        _append_pieces(text, content, within, ids[within], encoder, document)
        yield text


def _whereabouts(shards: ShardSet, group: int) -> str:
    path, number = shards.place(group)
    epochs = shards.manifest.epochs
    epoch = f", epoch {group % epochs}" if epochs > 1 else ""
    return f"  {visible(Path(path).name)}, row group {number}{epoch}"


def _manifest_table(manifest: Manifest) -> Table:
    counts = manifest.counts
    table = Table(title=Text(visible(f"{manifest.source}-{manifest.split}")), show_header=False)
    values = {name: f"{number:,}" for name, number in counts.items()} | {
        "filled": f"{ShardCounts.of(counts).fill:.3%}",
        "sequence length": f"{manifest.sequence_length:,}",
        "policy": manifest.policy,
        "epochs": str(manifest.epochs),
        "vocabulary": f"{manifest.vocabulary_size:,}",
        "begin, end, pad": f"{_begin(manifest)}, {manifest.end_id}, {manifest.pad_id}",
        "loss mask": "yes" if manifest.has_loss_mask else "no",
        "files": str(len(manifest.files)),
        "missing": ", ".join(manifest.missing) or "nothing",
        "tokenizer": manifest.tokenizer_fingerprint[:16],
        "hash": manifest.hash[:16],
    }
    for name, value in values.items():
        table.add_row(name, Text(visible(value)))
    return table


def _begin(manifest: Manifest) -> str:
    return str(manifest.begin_id) if manifest.begin_token else "not used"


def _append_pieces(
    text: Text,
    content: RowGroup,
    row: int,
    ids: list[str],
    encoder: Encoder,
    document: str | None,
) -> None:
    """The row's documents, each under a line in colour; that of `document` in another."""
    column = 0
    for piece, name in zip(range(*content.starts[row : row + 2]), ids, strict=True):
        offset, length = int(content.offsets[piece]), int(content.lengths[piece])
        style = "bold yellow" if name == document else "cyan"
        heading = f"{visible(name)}  tokens {offset:,} to {offset + length:,}"
        text.append(f"\n── {heading}\n", style=style)
        places = slice(column, column + length)
        mask = None if content.loss_mask is None else content.loss_mask[row, places]
        text.append_text(_piece_text(content.tokens[row, places], mask, encoder))
        column += length
    padding = content.tokens.shape[1] - column
    if padding:
        text.append(f"\n── padding: {padding:,} places", style="cyan")


def _piece_text(tokens: np.ndarray, mask: np.ndarray | None, encoder: Encoder) -> Text:
    """The tokens as text, in runs of equal mask, because a letter may be several tokens."""
    if mask is None:
        return Text(visible(encoder.decode(tokens)), style="default not bold")
    text = Text()
    seams = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), len(tokens)]
    for begin, end in pairwise(seams):
        style = "default not bold" if mask[begin] else "dim not bold"
        text.append(visible(encoder.decode(tokens[begin:end])), style=style)
    return text


def visible(text: str) -> str:
    """The text with what steers a terminal made visible: escape sequences, bells, changes of direction.

    Line feeds and tabs stay; other control characters become the pictures that Unicode has for them.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    code = ord(character)
    if character.isprintable() or character in "\n\t":
        return character
    if code < 0x20:
        return chr(0x2400 + code)  # ␀ to ␟
    if code == 0x7F:
        return "␡"
    steers = unicodedata.category(character) == "Cc"
    steers |= unicodedata.bidirectional(character) in TURNS
    return f"<U+{code:04X}>" if steers else character
