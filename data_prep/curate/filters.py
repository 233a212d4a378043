"""Which documents stay by what is known of each alone, decided for a whole index at once.

A filter is named by the reason that it gives; the first of FILTERS that drops a document decides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.config import Curate
from data_prep.sources.licence import licence_group

UNDETERMINED = "und"  # ISO 639-2's code for a language that nobody stated

PASSES = 0
"""Code of a document that no filter drops; `1 + FILTERS.index(name)` of one that a filter drops."""

COLUMNS = ("language", "record", "abstract", "characters", "licence", "notice")
"""The columns of an index that `failed_filters` reads."""


class FilterSettings(TypedDict):
    """The part of the config's `curate` section that the filters read."""

    languages: list[str]
    require_abstract: bool
    min_characters: int
    licences: list[str]
    drop_notices: bool


def filter_settings(curate: Curate) -> FilterSettings:
    """What the filters read of the config; the order in which lists were written does not matter."""
    return {
        "languages": sorted(curate.languages),
        "require_abstract": curate.require_abstract,
        "min_characters": curate.min_characters,
        "licences": sorted(curate.licences),
        "drop_notices": curate.drop_notices,
    }


def failed_filters(table: pa.Table, settings: FilterSettings) -> np.ndarray:
    """For each row of an index (COLUMNS) the code of the first filter that drops it: uint8, shape (n,)."""
    failed = np.full(len(table), PASSES, dtype=np.uint8)
    for code, drops in reversed(list(enumerate(_FILTERS.values(), start=1))):
        failed[drops(table, settings)] = code
    return failed


def _language(table: pa.Table, settings: FilterSettings) -> np.ndarray:
    """Documents known to be in another language; an empty list accepts all."""
    return ~_accepted(table["language"], lambda code: accepts_language(code, settings))


def _no_abstract(table: pa.Table, settings: FilterSettings) -> np.ndarray:
    """Citations that are a title alone."""
    if not settings["require_abstract"]:
        return np.zeros(len(table), dtype=bool)
    cited = pc.is_in(table["record"].cast(pa.string()), pa.array(["citation", "book"]))
    return cited.to_numpy() & ~flags(table["abstract"])


def _too_short(table: pa.Table, settings: FilterSettings) -> np.ndarray:
    """Texts of fewer characters than `min_characters`, title included."""
    return pc.fill_null(table["characters"], 0).to_numpy() < settings["min_characters"]


def _licence(table: pa.Table, settings: FilterSettings) -> np.ndarray:
    """Documents whose licence group is not accepted."""
    return ~_accepted(table["licence"], lambda code: licence_group(code) in settings["licences"])


def _notice(table: pa.Table, settings: FilterSettings) -> np.ndarray:
    """Records about another article: its retraction, its correction, a concern."""
    return flags(table["notice"]) & settings["drop_notices"]


_FILTERS: dict[str, Callable[[pa.Table, FilterSettings], np.ndarray]] = {
    "language": _language,
    "no_abstract": _no_abstract,
    "too_short": _too_short,
    "licence": _licence,
    "notice": _notice,
}
FILTERS = tuple(_FILTERS)


def flags(column: pa.ChunkedArray) -> np.ndarray:
    """A column of marks as booleans; what is not known is not marked."""
    return pc.fill_null(column, False).to_numpy()


def _accepted(column: pa.ChunkedArray, accepts: Callable[[str | None], bool]) -> np.ndarray:
    values = [value for value in column.unique().to_pylist() if accepts(value)]
    return pc.is_in(column, pa.array(values, column.type)).to_numpy()


def accepts_language(code: str | None, settings: FilterSettings) -> bool:
    """Whether a language code (None: not known) is accepted."""
    wanted = settings["languages"]
    return not wanted or code in (None, UNDETERMINED) or code in wanted


def split_of(article_key: str, validation_fraction: float) -> Literal["train", "validation"]:
    """Which split an article falls into: by its key alone, so that it stays there as the corpus grows.

    A larger fraction moves articles from train to validation and none back.
    """
    return "validation" if drawn(article_key) < validation_fraction * 2**64 else "train"


def drawn(key: str) -> int:
    """A number below 2**64 that follows from the key alone, all equally likely."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
