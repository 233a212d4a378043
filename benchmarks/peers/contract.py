"""What every peer's script does with its command line.

PEER.py write OUTPUT TOKENIZER WORKERS INPUT.jsonl ...   documents to tokens
PEER.py store ROWS.npy OUTPUT                           these rows in the peer's format
PEER.py read OUTPUT                                     all rows, shuffled; prints a line of JSON
"""

import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SEQUENCE = 1024


@dataclass
class Reading:
    """The peer's version and its rows in the order in which it gives them."""

    version: str
    rows: Iterator[Any]


def main(
    arguments: list[str],
    write: Callable[[list[Path], Path, Path, int], None] | None,
    store: Callable[[np.ndarray, Path], None] | None,
    read: Callable[[Path], Reading] | None,
) -> None:
    verb, *rest = arguments
    if verb == "write" and write:
        output, tokenizer, workers, *inputs = rest
        shutil.rmtree(output, ignore_errors=True)
        write([Path(path) for path in inputs], Path(output), Path(tokenizer), int(workers))
    elif verb == "store" and store:
        rows, output = rest
        shutil.rmtree(output, ignore_errors=True)
        store(np.load(rows, mmap_mode="r"), Path(output))
    elif verb == "read" and read:
        print(json.dumps(measured(lambda: read(Path(rest[0])))))
    else:
        raise SystemExit(f"nothing to do for {verb}")


def measured(start: Callable[[], Reading]) -> dict[str, Any]:
    """Rows a second of one pass, seconds to the first row, and the memory the process came to hold."""
    began = time.perf_counter()
    reading = start()
    first, count, total = 0.0, 0, 0
    for row in reading.rows:
        first = first or time.perf_counter() - began
        total += int(row[0])  # the row is there, not only promised
        count += 1
    seconds = time.perf_counter() - began
    return {
        "version": reading.version,
        "rows": count,
        "first_tokens": total,
        "rows_a_second": count / seconds,
        "seconds_to_first": first,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
