"""RUN/spikes/step-N.json: what a spike was, and the documents that were in its batch.

Taken before the ledger leaves the batch out: afterwards the trace of step N names other documents.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from threading import Thread
from typing import Any

from data_prep.errors import ProjectError
from data_prep.files import write_json
from data_prep.shards.reader import ShardSet
from pretrain.order.order import Order
from pretrain.tracing.trace import batch_rows
from pretrain.watch.metrics import finite

FOLDER = "spikes"


def save_spike(
    run: Path, step: int, facts: dict[str, Any], order: Order, sets: Mapping[str, ShardSet]
) -> Thread:
    """Write the record of step `step` (as in metrics.jsonl), `facts` at once.

    The documents follow from a thread, which is given back: the sets may be far, and other ranks wait.
    Join it before the process ends. Where the sets cannot be read, the record says why.
    """
    path = run / FOLDER / f"step-{step:08d}.json"
    path.parent.mkdir(exist_ok=True)
    record = finite({"step": step} | facts)
    write_json(path, record)
    thread = Thread(target=_add_documents, args=(path, record, order, dict(sets)), name="spike")
    thread.start()
    return thread


def _add_documents(
    path: Path, record: dict[str, Any], order: Order, sets: Mapping[str, ShardSet]
) -> None:
    # A full disk must not hide what the run has to say.
    with contextlib.suppress(OSError):
        try:
            rows = [asdict(row) for row in batch_rows(order, sets, record["step"])]
        except ProjectError as error:
            write_json(path, record | {"no_rows": str(error)})
        else:
            write_json(path, record | {"rows": rows})
