"""The documents of a shard set again, from its rows: whole, with all their tokens.

The pieces of a document may lie in several rows and row groups. documents.parquet says which row holds the
last of them, but is sorted by id: so its lines are first dealt out, in a temporary file for every million
of documents, by the row group in which a document ends. Memory: one such file (about 200 MB), a row group,
and the documents begun and not ended, which the window of the packing bounds.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.errors import DataError
from data_prep.shards.document_list import ROWS_AT_ONCE
from data_prep.shards.encoded import ABOUT, EncodedBatch, ranges
from data_prep.shards.manifest import DOCUMENTS_FILE
from data_prep.shards.reader import ID, ShardSet
from data_prep.shards.storage import RESTORE

_ENDS_IN = "row_group"
_LISTED = pa.schema([*ABOUT, pa.field("tokens", pa.int64()), pa.field(_ENDS_IN, pa.int64())])


@dataclass(frozen=True, eq=False)
class Held:
    """Pieces of documents, one after another: piece k has the next `length[k]` tokens.

    offset, length: int64 (pieces,); tokens: integers, flat; loss_mask: bool, as long as tokens, or None.
    """

    id: pa.Array
    offset: np.ndarray
    length: np.ndarray
    tokens: np.ndarray
    loss_mask: np.ndarray | None

    def take(self, pieces: np.ndarray) -> "Held":
        """These pieces (int64), in this order."""
        ends, mask = np.cumsum(self.length), self.loss_mask
        begins = (ends - self.length)[pieces]
        return Held(
            self.id.take(pa.array(pieces)),
            self.offset[pieces],
            self.length[pieces],
            ranges(self.tokens, begins, ends[pieces]),
            None if mask is None else ranges(mask, begins, ends[pieces]),
        )

    def with_more(self, more: "Held") -> "Held":
        masks = [mask for mask in (self.loss_mask, more.loss_mask) if mask is not None]
        return Held(
            pa.concat_arrays([self.id, more.id]),
            np.concatenate([self.offset, more.offset]),
            np.concatenate([self.length, more.length]),
            np.concatenate([self.tokens, more.tokens]),
            np.concatenate(masks) if masks else None,
        )


def documents_of(shards: ShardSet, scratch: Path | None = None) -> Iterator[EncodedBatch]:
    """Every document of the set once, in the order in which they end; a batch for a row group.

    Of a set packed by concat this is the order in which they were packed. `scratch` is a folder for
    temporary files as large as documents.parquet; none: the system's. Raises DataError for a set of the
    policy per_document, which holds windows, and where rows and documents.parquet do not agree.
    """
    if shards.manifest.policy == "per_document":
        raise DataError(
            f"{shards.folder}: packed with policy per_document, which keeps a window of each document and "
            "not the whole; take a set that was packed with best_fit or concat"
        )
    open_pieces: Held | None = None
    for group, ending in enumerate(_ending(shards, scratch)):
        pieces = _pieces(shards, group)
        held = pieces if open_pieces is None else open_pieces.with_more(pieces)
        of = pc.index_in(held.id, value_set=ending["id"]).fill_null(-1).to_numpy().astype(np.int64)
        yield _whole(shards, held, of, ending)
        open_pieces = held.take(np.flatnonzero(of < 0))
    if open_pieces is not None and len(open_pieces.id):
        raise _disagrees(shards, open_pieces.id[0].as_py())


def _pieces(shards: ShardSet, group: int) -> Held:
    """What stands in the row group, without the padding."""
    rows = shards.read(group)
    lengths = rows.lengths.astype(np.int64)
    ends = np.append(0, np.cumsum(lengths))
    used = np.arange(rows.tokens.shape[1]) < np.diff(ends[rows.starts])[:, None]
    ids = shards.table(group, [ID])["documents"].combine_chunks().flatten().field("id")
    mask = None if rows.loss_mask is None else rows.loss_mask[used]
    return Held(ids, rows.offsets.astype(np.int64), lengths, rows.tokens[used], mask)


def _whole(shards: ShardSet, held: Held, of: np.ndarray, ending: pa.Table) -> EncodedBatch:
    """The documents `ending`, in the order of their last pieces; `of` says which one a piece is of."""
    theirs = np.flatnonzero(of >= 0)
    last = np.full(len(ending), -1)
    last[of[theirs]] = theirs  # the last piece of a document is written last
    order = np.argsort(last, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    theirs = theirs[np.lexsort((held.offset[theirs], rank[of[theirs]]))]
    pieces = held.take(theirs)
    about = ending.take(pa.array(order))
    document = rank[of[theirs]]
    starts = np.append(0, np.cumsum(about["tokens"].to_numpy()))
    before = np.cumsum(pieces.length) - pieces.length
    wrong = before != starts[document] + pieces.offset
    if wrong.any() or starts[-1] != len(pieces.tokens):
        place = int(document[np.argmax(wrong)]) if wrong.any() else len(about) - 1
        raise _disagrees(shards, about["id"][place].as_py())
    return EncodedBatch(about.select(ABOUT.names), pieces.tokens, starts, pieces.loss_mask)


def _disagrees(shards: ShardSet, name: str) -> DataError:
    return DataError(
        f"{shards.folder}: document {name}: the rows do not hold the tokens that {DOCUMENTS_FILE} "
        f"lists; see what `python -m data_prep verify {shards.folder}` says"
    )


def _ending(shards: ShardSet, scratch: Path | None) -> Iterator[pa.Table]:
    """For every row group the documents whose last row is in it, from documents.parquet."""
    path = shards.checked(DOCUMENTS_FILE)
    ends = np.cumsum(shards.row_groups)
    counts = np.zeros(len(ends), np.int64)
    for table in _listed(path, ends, ["rows"]):
        counts += np.bincount(table[_ENDS_IN].to_numpy(), minlength=len(ends))
    # The row groups with which a file begins, so that none holds many more than ROWS_AT_ONCE documents.
    _, file_of = np.unique((np.cumsum(counts) - counts) // ROWS_AT_ONCE, return_inverse=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".unpack") as temporary:
        files = [Path(temporary) / f"{index}.arrow" for index in range(int(file_of[-1]) + 1)]
        _deal(_listed(path, ends, [*ABOUT.names, "tokens", "rows"]), file_of, files)
        for index, file in enumerate(files):
            with pa.OSFile(str(file)) as stream:
                table = pa.ipc.open_stream(stream).read_all().sort_by(_ENDS_IN).combine_chunks()
            groups = np.flatnonzero(file_of == index)
            cuts = np.searchsorted(table[_ENDS_IN].to_numpy(), [*groups, groups[-1] + 1]).tolist()
            for begin, end in pairwise(cuts):
                yield table.slice(begin, end - begin)


def _listed(path: Path, ends: np.ndarray, columns: list[str]) -> Iterator[pa.Table]:
    """documents.parquet part by part, with the row group in which each document ends for its rows."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=columns):
            table = pa.Table.from_batches([batch])
            rows = table["rows"].combine_chunks()
            last = rows.values.to_numpy()[rows.offsets.to_numpy()[1:] - 1]
            group = np.searchsorted(ends, last, side="right")
            if (group >= len(ends)).any():
                raise DataError(f"{path}: lists a row that the set does not have; {RESTORE}")
            yield table.drop_columns("rows").append_column(_ENDS_IN, pa.array(group))


def _deal(tables: Iterator[pa.Table], file_of: np.ndarray, files: Sequence[Path]) -> None:
    writers = [pa.ipc.new_stream(str(file), _LISTED) for file in files]
    for table in tables:
        place = file_of[table[_ENDS_IN].to_numpy()]
        for index in np.unique(place).tolist():
            part = table.take(pa.array(np.flatnonzero(place == index)))
            writers[index].write_table(part.select(_LISTED.names).cast(_LISTED))
    for writer in writers:
        writer.close()
