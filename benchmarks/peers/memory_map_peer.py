"""A bare NumPy memory map read in a random order: no format, no check, no resume."""

import sys
from pathlib import Path

import numpy as np
from contract import Reading, main


def store(rows: np.ndarray, output: Path) -> None:
    output.mkdir(parents=True)
    np.save(output / "rows.npy", rows)


def read(output: Path) -> Reading:
    rows = np.load(output / "rows.npy", mmap_mode="r")
    order = np.random.default_rng(1).permutation(len(rows))
    return Reading(np.__version__, (np.array(rows[number]) for number in order))


if __name__ == "__main__":
    main(sys.argv[1:], None, store, read)
