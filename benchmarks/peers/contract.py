"""What every peer's script does with its command line.

PEER.py write OUTPUT TOKENIZER WORKERS INPUT.jsonl ...   documents to tokens
PEER.py store ROWS.npy OUTPUT                           these rows in the peer's format
PEER.py read OUTPUT                                     all rows, shuffled; prints a line of JSON
"""

import json
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
        report(lambda: read(Path(rest[0])))
    else:
        raise SystemExit(f"nothing to do for {verb}")


def _high_water() -> float:
    """The most memory this process held; getrusage would count that of the process it was forked from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6


def report(start: Callable[[], Reading]) -> None:
    """Print rows a second of one pass, seconds to the first row, and the memory the process came to hold."""
    began = time.perf_counter()
    reading = start()
    first, count, total = 0.0, 0, 0
    for row in reading.rows:
        first = first or time.perf_counter() - began
        total += int(row[0])  # the row is there, not only promised
        count += 1
    seconds = time.perf_counter() - began
    told = {
        "version": reading.version,
        "rows": count,
        "first_tokens": total,
        "rows_a_second": count / seconds,
        "seconds_to_first": first,
        "megabytes": _high_water(),
    }
    print(json.dumps(told))
