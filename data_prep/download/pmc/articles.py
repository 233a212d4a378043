"""Which article versions of PMC's bucket are here, in which part, and what is to be done about the others.

`articles/<number>.parquet` goes with `files/part-<number>.jsonl.zst` and has a row for each article that
was asked about while that part was written: its key and state (inventory.py), what became of it, its
traits (layout.py) and the bytes of its XML. Of several rows of an article the last part's counts. The
file's metadata hold the part's SHA-256, so that a part that is damaged or gone is known, forgotten, and its articles are
fetched again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.download.inventory import HashCache
from data_prep.download.pmc.inventory import Inventory
from data_prep.download.pmc.layout import VERSIONS, are_wanted
from data_prep.errors import DataError
from data_prep.files import write_atomically
from data_prep.source_config import Bucket

# What became of an article version: asked about and not wanted; in the part; in the part as too
# large to be read; withdrawn in the part; without any XML in the bucket.
NOT_WANTED, FETCHED, TOO_LARGE, WITHDRAWN, WITHOUT_XML = range(5)

SCHEMA = pa.schema(
    [
        ("key", pa.uint64()),
        ("state", pa.uint64()),
        ("became", pa.uint8()),
        ("traits", pa.uint8()),
        ("bytes", pa.uint32()),
    ]
)
# A broken inventory looks like a mass withdrawal. PMC removes "in rare cases" (its README); a tenth
# of what is here, and more than a thousand, is none of those.
MOST_WITHDRAWN, FEW = 0.1, 1000


@dataclass(frozen=True)
class Articles:
    """The article versions that are known: columns of SCHEMA and the part's number, sorted by key, each once."""

    key: np.ndarray
    state: np.ndarray
    became: np.ndarray
    traits: np.ndarray
    bytes: np.ndarray
    part: np.ndarray

    @property
    def is_here(self) -> np.ndarray:
        """Which of them are in a part."""
        return np.isin(self.became, (FETCHED, TOO_LARGE))

    def has_article(self, key: int) -> bool:
        """Whether any version of this key's article is in a part."""
        versions = np.array((key // VERSIONS, key // VERSIONS + 1), np.uint64) * VERSIONS
        first, end = np.searchsorted(self.key, versions)
        return bool(np.isin(self.became[first:end], (FETCHED, TOO_LARGE)).any())


@dataclass(frozen=True)
class Plan:
    """Sorted keys to withdraw, before anything else is written, and to fetch."""

    withdraw: np.ndarray
    fetch: np.ndarray


def part_name(number: int) -> str:
    """The name of a part's file."""
    return f"part-{number:06d}.jsonl.zst"


def rows_path(folder: Path, number: int) -> Path:
    """Where the rows that go with a part are."""
    return folder / "articles" / f"{number:06d}.parquet"


def write_rows(path: Path, rows: list[tuple[int, int, int, int, int]], sha256: str | None) -> None:
    """Write the rows of a part, in any order; no SHA-256: there is no part, as nothing was wanted."""
    columns = np.array(sorted(rows), dtype=np.uint64).reshape(-1, len(SCHEMA)).T
    table = pa.table(
        [pa.array(column).cast(field.type) for column, field in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA.with_metadata({"sha256": sha256 or ""}),
    )
    with write_atomically(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def read_articles(folder: Path, cache: HashCache) -> tuple[Articles, list[int]]:
    """What is known, and the numbers of the whole parts; files that are not whole are removed."""
    tables: list[tuple[int, pa.Table]] = []
    parts = []
    for path in sorted((folder / "articles").glob("*.parquet")):
        number = int(path.stem)
        table = _rows_of(path, folder / "files" / part_name(number), cache)
        if table is None:
            path.unlink()
            continue
        tables.append((number, table))
        if table.schema.metadata[b"sha256"]:
            parts.append(number)
    names = {part_name(number) for number in parts}
    for file in (folder / "files").iterdir():
        if file.name not in names:
            file.unlink()
    return _joined(tables), parts


def _rows_of(path: Path, part: Path, cache: HashCache) -> pa.Table | None:
    """The rows in a file, or None where they or their part are damaged."""
    try:
        table = pq.read_table(path)
        sha256 = table.schema.metadata[b"sha256"].decode()
        if sha256 and cache.digests(part.name, part, with_md5=False).sha256 != sha256:
            return None
    except (OSError, pa.ArrowException, KeyError, TypeError):
        return None
    return table


def _joined(tables: list[tuple[int, pa.Table]]) -> Articles:
    table = pa.concat_tables([table for _, table in tables] or [SCHEMA.empty_table()])
    columns = {name: table[name].to_numpy() for name in SCHEMA.names}
    numbers = np.array([number for number, _ in tables], np.int32)
    columns["part"] = np.repeat(numbers, [len(table) for _, table in tables])
    order = np.argsort(columns["key"], kind="stable")  # of equal keys the last part's stays last
    keys = columns["key"][order]
    last = order[np.append(keys[1:] != keys[:-1], True)[: len(keys)]]
    return Articles(**{name: column[last] for name, column in columns.items()})


def next_number(folder: Path) -> int:
    """The number of the next part: above all there were, as later parts take precedence."""
    numbers = [int(path.stem) for path in (folder / "articles").glob("*.parquet")]
    return max(numbers, default=0) + 1


def make_plan(
    known: Articles, inventory: Inventory, bucket: Bucket, max_article_bytes: int
) -> Plan:
    """What to do so that the parts hold what the bucket has and the config asks for.

    An article's highest version counts. Raises DataError where an inventory lacks so much that it must be
    broken.
    """
    is_here = known.is_here
    wanted = are_wanted(known.traits, bucket)
    # Done with, as long as its state stays.
    settled = np.where(is_here, wanted, ~wanted | (known.became == WITHOUT_XML))
    settled &= (known.became != TOO_LARGE) | (known.bytes > max_article_bytes)
    settled &= ~(is_here & (_withdrawn_in(known) >= known.part))

    here, place = _lookup(inventory.keys, known.key)  # known rows that the inventory lists
    same = here & (inventory.states[place] == known.state)

    # A version that a higher one replaced needs nothing: the higher one takes its place.
    articles = inventory.keys // np.uint64(VERSIONS)
    listed, article = _lookup(articles, known.key // np.uint64(VERSIONS))
    superseded = listed & (inventory.keys[article] > known.key)
    gone = is_here & ~here & ~superseded
    _refuse_mass_withdrawal(inventory, int(gone.sum()), int(is_here.sum()))
    withdraw = gone | (is_here & same & ~wanted)

    left = np.ones(len(inventory.keys), bool)
    left[place[same & (settled | withdraw)]] = False
    # A withdrawal covers older versions too: one of them that is the highest now has to come after it.
    left[article[gone & listed]] = True
    return Plan(known.key[withdraw], inventory.keys[left])


def _withdrawn_in(known: Articles) -> np.ndarray:
    """The last part that takes back each version with a higher one of its article; 0 where none does."""
    part = np.where(np.isin(known.became, (WITHDRAWN, WITHOUT_XML)), known.part, 0)[::-1]
    article = (known.key // np.uint64(VERSIONS))[::-1]
    # A running maximum from the highest key down; each article starts from a higher base than all before it.
    number = np.append(0, np.cumsum(article[1:] != article[:-1]))[: len(article)]
    base = number * (int(part.max(initial=0)) + 1)
    return (np.maximum.accumulate(part + base) - base)[::-1]


def _lookup(keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each wanted one is among the sorted keys, of which there is one at least, and where."""
    place = np.searchsorted(keys, wanted)
    np.minimum(place, len(keys) - 1, out=place)
    return keys[place] == wanted, place


def _refuse_mass_withdrawal(inventory: Inventory, gone: int, here: int) -> None:
    if gone > FEW and gone > MOST_WITHDRAWN * here:
        raise DataError(
            f"inventory {inventory.stamp}: {gone:,} of {here:,} articles that are here are not in it; it looks "
            "broken, so nothing is withdrawn: wait for the next one, or remove the source's download folder"
        )
