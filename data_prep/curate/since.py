"""What an earlier corpus held: what of it is seen again now, and what was withdrawn since.

`kept.parquet` in each of a corpus' curated units lists what it kept, and the near-duplicates of that, which
are not news either: id_hash and text_hash (int64, see data_prep.extract.index.content_hash). A corpus that was itself made of what is new since another one passes on
what that one held, in `seen.parquet` beside its decisions: a chain of corpora needs only its last folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.curate.articles import UNKNOWN, look_up, pmcid_numbers, sorted_once
from data_prep.curate.reasons import DELETED, REASONS, RETRACTED, SUPERSEDED
from data_prep.errors import ConfigError, DataError
from data_prep.extract.index import content_hashes
from data_prep.files import digest
from data_prep.units import finished

KEPT = "kept.parquet"
SEEN = "seen.parquet"
WITHDRAWN = "withdrawn.parquet"
_GONE = (DELETED, RETRACTED)
_PAIR = pa.schema([("id_hash", pa.int64()), ("text_hash", pa.int64())])
_WITHDRAWN = pa.schema([("id", pa.string()), ("reason", pa.string())])
# Makes a pair of hashes one: odd, so that no text hash is lost (the golden ratio times 2**63).
_SPREAD = np.int64(0x4F1BBCDCBFA53E0B)


class EarlierCorpus(NamedTuple):
    """The files that list what it held, and their content's hash."""

    files: list[Path]
    hash: str


def find_earlier(folder: Path, own: Path) -> EarlierCorpus:
    """The lists of the corpus whose output is `folder`.

    Raises ConfigError where there is none, or where it is `own`, the output of the corpus to be made.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"curate.since: {folder}: no such folder; give the output of an earlier corpus"
        )
    if folder.resolve() == own.resolve():
        raise ConfigError(
            f"curate.since: {folder} is the output of this corpus; give that of an earlier one"
        )
    units = finished(folder / "curate")
    if not units:
        raise ConfigError(
            f"curate.since: {folder}: expected the output of a corpus, found no curated units in it; "
            "run the stage curate there first"
        )
    lists = [(f"curate/{unit.name}", unit, KEPT) for unit in units]
    lists += [
        (f"identify/{unit.name}", unit, SEEN)
        for unit in finished(folder / "identify")
        if SEEN in unit.files
    ]
    for _, unit, name in lists:
        if name not in unit.files or not (unit.folder / name).is_file():
            raise ConfigError(
                f"curate.since: {unit.folder / name}: missing; run the stage curate there again"
            )
    hashes = {place: unit.files[name]["sha256"] for place, unit, name in lists}
    return EarlierCorpus([unit.folder / name for _, unit, name in lists], digest(hashes))


def read_seen(files: Sequence[Path]) -> pa.Table:
    """The rows of all lists: id_hash and text_hash. Raises DataError where a file is no such list."""
    return pa.concat_tables([_PAIR.empty_table(), *map(_read_list, files)])


def _read_list(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, columns=_PAIR.names).cast(_PAIR)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(
            f"{path}: not a list of what a corpus kept ({' '.join(str(error).split())}); "
            "run the stage curate there again"
        ) from error


def write_seen(path: Path, table: pa.Table) -> None:
    """Write the list for corpora to come."""
    pq.write_table(table, path, compression="zstd")


class Seen:
    """What an earlier corpus held (the table of `read_seen`), and what the present indexes say about it.

    Memory: 26 bytes a document of the earlier corpora, and 40 more while it is made.
    """

    def __init__(self, table: pa.Table):
        ids, texts = (table[name].to_numpy() for name in _PAIR.names)
        self._pairs = sorted_once(_paired(ids, texts))
        self._ids = sorted_once(ids)
        self._found = np.zeros(len(self._ids), dtype=bool)
        self._stands = np.zeros(len(self._ids), dtype=bool)
        self._gone: dict[str, int] = {}

    def meet(self, path: Path, reasons: np.ndarray) -> np.ndarray:
        """Mask of an index's documents that were held with the same text.

        `reasons` are the codes of their reasons so far, shape (n,). What one record of an id says is gone may
        stand in another: ask `withdrawn` when all indexes have been met.
        """
        table = pq.read_table(path, columns=["kind", "id", "pmid", "pmcid", "text_hash"])
        is_document = pc.equal(table["kind"].cast(pa.string()), "document")
        documents, deletions = table.filter(is_document), table.filter(pc.invert(is_document))
        ids = _hashes(documents["id"])
        place, held = look_up(self._ids, ids)
        self._found[place[held]] = True
        self._stands[place[held & ~np.isin(reasons, (SUPERSEDED, *_GONE))]] = True
        for reason in _GONE:
            rows = pa.array(held & (reasons == reason))
            self._note(documents["id"].filter(rows).to_pylist(), reason)
        self._note(_deleted_ids(deletions), DELETED)
        return look_up(self._pairs, _paired(ids, documents["text_hash"].to_numpy()))[1]

    def _note(self, ids: Sequence[str], reason: int) -> None:
        place, held = look_up(self._ids, _hashes(ids))
        self._found[place[held]] = True
        for name in np.array(ids, dtype=object)[held]:
            if reason == RETRACTED or name not in self._gone:
                self._gone[name] = reason

    def withdrawn(self) -> dict[str, str]:
        """The ids that were held and stand no longer, with the reason, sorted by id."""
        ids = sorted(self._gone)
        place, _ = look_up(self._ids, _hashes(ids))
        stands = self._stands[place] if ids else []
        return {
            name: REASONS[self._gone[name]]
            for name, still in zip(ids, stands, strict=True)
            if not still
        }

    def absent(self) -> int:
        """How many ids were held of which no index knows anything."""
        return int(np.count_nonzero(~self._found))


def write_withdrawn(path: Path, withdrawn: dict[str, str]) -> None:
    table = pa.table([list(withdrawn), list(withdrawn.values())], schema=_WITHDRAWN)
    pq.write_table(table, path, compression="zstd")


def _deleted_ids(deletions: pa.Table) -> list[str]:
    """The ids that a deletion withdraws: a PMID's, or a PMCID's."""
    pmids = deletions["pmid"].drop_null().to_pylist()
    pmcids = pmcid_numbers(deletions["pmcid"]).tolist()
    return [f"pmid:{n}" for n in pmids] + [f"pmcid:PMC{n}" for n in pmcids if n != UNKNOWN]


def _hashes(ids: pa.ChunkedArray | Sequence[str]) -> np.ndarray:
    names = ids.to_pylist() if isinstance(ids, pa.ChunkedArray) else ids
    return content_hashes(names)


def _paired(ids: np.ndarray, texts: np.ndarray) -> np.ndarray:
    return ids ^ (texts * _SPREAD)  # modulo 2**64
