"""What a step of curation decided about each document of a unit: it stays, or why it goes.

A file has a row for each document, in the order of documents.jsonl.zst: `position` (int64) and
`reason` (text): "keep", or the name of the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import DataError

KEEP = "keep"


def write_decisions(path: Path, codes: np.ndarray, names: Sequence[str]) -> None:
    """Write the decisions of n documents: `codes` (uint8, shape (n,)) index `names`; names[0] is "keep"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    reasons = pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.uint8)), pa.array(names))
    table = pa.table({"position": np.arange(len(codes), dtype=np.int64), "reason": reasons})
    pq.write_table(table, path, compression="zstd")


def read_decisions(paths: Sequence[Path]) -> np.ndarray:
    """Reasons (str objects, shape (n,)) of a unit's documents: of several steps the first that is no "keep".

    Raises DataError where the steps saw different numbers of documents.
    """
    steps = [_read(path) for path in paths]
    combined = steps[0]
    for path, step in zip(paths[1:], steps[1:], strict=True):
        if len(step) != len(combined):
            raise DataError(
                f"{path}: decides on {len(step)} documents, the step before on {len(combined)}; "
                "run the stage curate again"
            )
        combined = np.where(combined == KEEP, step, combined)
    return combined


def _read(path: Path) -> np.ndarray:
    return pq.read_table(path, columns=["reason"])["reason"].to_numpy(zero_copy_only=False)
