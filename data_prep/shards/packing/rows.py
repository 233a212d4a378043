"""From a window of documents and its pieces to the Arrow rows of a shard."""

import numpy as np
import pyarrow as pa

from data_prep.shards.encoded import EncodedBatch
from data_prep.shards.packing.pieces import Pieces, lay_out
from data_prep.shards.schema import PIECE, ShardFormat


def rows_table(
    form: ShardFormat, batch: EncodedBatch, done: np.ndarray, pieces: Pieces
) -> pa.Table:
    """The packed rows of documents, of which `done` tokens stand in earlier rows and are not in `batch`.

    `pieces` counts its offsets from there; the table's offsets are those within the document.
    """
    begins = batch.starts[:-1]
    tokens = batch.tokens.astype(form.token_type.to_pandas_dtype(), copy=False)
    places = lay_out(tokens, begins, pieces, form.sequence_length, form.pad_id)
    structs = pa.StructArray.from_arrays(
        [
            batch.about["id"].combine_chunks().take(pa.array(pieces.document)),
            pa.array((pieces.offset + done[pieces.document]).astype(np.uint32)),
            pa.array(pieces.length.astype(np.uint32)),
        ],
        fields=list(PIECE),
    )
    schema = form.arrow_schema()
    columns = [
        _lists(places, schema.field("tokens").type),
        pa.ListArray.from_arrays(
            pa.array(pieces.starts.astype(np.int32)), structs, type=schema.field("documents").type
        ),
    ]
    if batch.loss_mask is not None:
        trained = lay_out(batch.loss_mask, begins, pieces, form.sequence_length, False)
        columns.append(_lists(trained, schema.field("loss_mask").type))
    return pa.Table.from_arrays(columns, schema=schema)


def _lists(matrix: np.ndarray, kind: pa.DataType) -> pa.ListArray:
    """A list for every row of the matrix."""
    rows, columns = matrix.shape
    ends = np.arange(0, (rows + 1) * columns, columns, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(matrix.reshape(-1)), type=kind)
