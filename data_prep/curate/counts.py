"""What a curated unit kept and dropped, counted from its index: for the corpus card and the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

COLUMNS = ("year", "licence", "language", "journal", "record", "characters")
"""The columns of an index that `of_kept` reads."""
JOURNALS = 200  # counted by name, those with the most documents
OTHERS = "others"
UNKNOWN = "unknown"
SAMPLES = 5  # of each reason to drop a document: enough to see what it means

Tally = dict[str, dict[str, int]]


def of_kept(
    rows: pa.Table, splits: np.ndarray, names: Sequence[str], source: str
) -> dict[str, Any]:
    """Counts of a unit's kept documents: `rows` of its index (COLUMNS), and the index of each one's split.

    `splits` and `kept_by` a property's value: documents and characters. `lengths` by powers of two: a
    bin is named by its lowest length, "1024" counts 1,024 to 2,047 characters.
    """
    characters = rows["characters"]
    split = pa.DictionaryArray.from_arrays(pa.array(splits), pa.array(list(names)))
    by_split = _tally(split.cast(pa.string()), characters)
    everything = _sum(by_split.values())
    return {
        "kept": len(rows),
        "splits": {name: by_split.get(name, _sum(())) for name in names},
        "kept_by": {
            "source": {source: everything} if len(rows) else {},
            **{name: _tally(rows[name], characters) for name in ("year", "licence", "language")},
            "journal": _largest(_tally(rows["journal"], characters)),
            "kind": _tally(rows["record"], characters),
        },
        "lengths": _lengths(characters.to_numpy()),
    }


def _tally(column: pa.ChunkedArray, characters: pa.ChunkedArray) -> Tally:
    """Documents and characters by the column's values as text, sorted."""
    table = pa.table({"value": column, "characters": characters})
    sums = table.group_by("value", use_threads=False).aggregate(
        [("characters", "count"), ("characters", "sum")]
    )
    counted = zip(
        sums["value"].to_pylist(),
        sums["characters_count"].to_pylist(),
        sums["characters_sum"].to_pylist(),
        strict=True,
    )
    named = {
        UNKNOWN if value is None else str(value): {"documents": documents, "characters": total}
        for value, documents, total in counted
    }
    return dict(sorted(named.items()))


def _largest(tally: Tally) -> Tally:
    """The JOURNALS largest, and what the others make together."""
    by_size = sorted(tally, key=lambda name: (-tally[name]["documents"], name))
    largest = {name: tally[name] for name in sorted(by_size[:JOURNALS])}
    others = [tally[name] for name in by_size[JOURNALS:]]
    return largest | {OTHERS: _sum(others)} if others else largest


def _sum(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    total = {"documents": 0, "characters": 0}
    for part in parts:
        total = {name: number + part[name] for name, number in total.items()}
    return total


def _lengths(characters: np.ndarray) -> dict[str, int]:
    # frexp gives the number of bits exactly, up to 2**53.
    powers = np.frexp(np.maximum(characters, 1).astype(np.float64))[1] - 1
    low, numbers = np.unique(1 << powers.astype(np.int64), return_counts=True)
    names = {str(name): number for name, number in zip(low.tolist(), numbers.tolist(), strict=True)}
    return dict(sorted(names.items()))


def of_dropped(reasons: np.ndarray) -> dict[str, int]:
    """How many documents each reason dropped, by name; `reasons` are those of the dropped ones."""
    counted = pc.value_counts(pa.array(reasons, pa.string())).to_pylist()
    return dict(sorted((row["values"], row["counts"]) for row in counted))


def sample_rows(reasons: np.ndarray, hashes: np.ndarray) -> dict[str, list[int]]:
    """For each reason up to SAMPLES rows, those whose id has the smallest hash, sorted by it."""
    order = np.argsort(hashes, kind="stable")
    sampled = {}
    for reason in sorted(set(reasons.tolist())):
        sampled[reason] = order[reasons[order] == reason][:SAMPLES].tolist()
    return sampled
