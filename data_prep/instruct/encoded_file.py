"""Encoded conversations between the two stages: a Parquet file with a row for each."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.shards.parquet_writer import COMPRESSION
from data_prep.shards.writer import EncodedDocument

SOURCE = "instruct"
_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("tokens", pa.list_(pa.uint32()), nullable=False),
        pa.field("loss_mask", pa.list_(pa.bool_()), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)
_ROWS = 1024  # conversations in memory at once


def write_encoded(path: Path, conversations: Iterable[EncodedDocument]) -> None:
    stream = iter(conversations)
    with pq.ParquetWriter(path, _SCHEMA, **COMPRESSION) as writer:
        while part := list(islice(stream, _ROWS)):
            columns = {
                "id": [conversation.id for conversation in part],
                "tokens": [conversation.tokens for conversation in part],
                "loss_mask": [conversation.loss_mask for conversation in part],
                "bytes": [conversation.bytes for conversation in part],
            }
            writer.write_table(pa.table(columns, schema=_SCHEMA))


def read_encoded(path: Path) -> Iterator[EncodedDocument]:
    """The conversations in the order in which they were written."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS):
            for name, tokens, mask, size in zip(*batch.columns, strict=True):
                yield EncodedDocument(
                    id=name.as_py(),
                    tokens=tokens.values.to_numpy(),
                    source=SOURCE,
                    bytes=size.as_py(),
                    loss_mask=mask.values.to_numpy(zero_copy_only=False).astype(np.bool_),
                )
