"""Keeps documents with a probability that their metadata gives: publication type, journal, age.

MEDITRON's authors tried to repeat documents by a sum of points for publication type, MeSH heading,
journal, recency and citations, and did not use it (https://github.com/epfLLM/meditron, gap-replay). A
product of weights between 0 and 1 needs no scale of points: each factor says by itself what share of
such documents stays, and what is not named is left alone.
"""

from __future__ import annotations

from collections import Counter
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.config import Quality
from data_prep.curate.articles import UNKNOWN, ArticleKeys

COLUMNS = ("publication_types", "journal", "year")
"""The columns of an index that `weights` reads."""

# SplitMix64's constants (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators").
_STEP = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


class QualitySettings(TypedDict):
    """The config's section, names in lower case."""

    publication_types: dict[str, float]
    journals: dict[str, float]
    half_life_years: float | None
    reference_year: int | None


def quality_settings(quality: Quality | None) -> QualitySettings | None:
    """What `weights` reads of the config; of names that differ in case alone the lowest weight counts."""
    if quality is None:
        return None
    return {
        "publication_types": _in_lower_case(quality.publication_types),
        "journals": _in_lower_case(quality.journals),
        "half_life_years": quality.half_life_years,
        "reference_year": quality.reference_year,
    }


def _in_lower_case(given: dict[str, float]) -> dict[str, float]:
    lowest: dict[str, float] = {}
    for name, weight in given.items():
        lowest[name.lower()] = min(weight, lowest.get(name.lower(), 1.0))
    return lowest


def weights(table: pa.Table, settings: QualitySettings) -> np.ndarray:
    """The weight of each row of an index (COLUMNS): float32 in [0, 1], shape (n,).

    The product of the lowest weight among the publication types named in the settings, the weight of
    the journal, and 2**(-age / half_life_years); 1 for what is not named, or of no known year.
    """
    weight = _of_types(table["publication_types"], settings["publication_types"])
    weight *= _looked_up(table["journal"], settings["journals"])
    if settings["half_life_years"] is not None and settings["reference_year"] is not None:
        years = pc.fill_null(table["year"], settings["reference_year"]).to_numpy()
        age = np.maximum(settings["reference_year"] - years.astype(np.int64), 0)
        weight *= np.exp2(-age / settings["half_life_years"])
    return weight.astype(np.float32)


def _of_types(types: pa.ChunkedArray, named: dict[str, float]) -> np.ndarray:
    """The lowest of each row's: a retracted review is no better for being a review."""
    lowest = np.ones(len(types))
    lists = types.combine_chunks()
    parents = pc.list_parent_indices(lists).to_numpy()
    np.minimum.at(lowest, parents, _looked_up(pc.list_flatten(lists), named))
    return lowest


def _looked_up(names: pa.Array | pa.ChunkedArray, named: dict[str, float]) -> np.ndarray:
    if not named:
        return np.ones(len(names))
    places = pc.index_in(pc.utf8_lower(names), pa.array(list(named), pa.string()))
    return np.array([*named.values(), 1.0])[pc.fill_null(places, len(named)).to_numpy()]


def is_drawn(keys: ArticleKeys, weight: np.ndarray) -> np.ndarray:
    """Mask of the rows that stay, each with its weight as the probability.

    An article's key (PMID, else DOI, else PMCID, else id) alone draws: it stays as the corpus grows, and a
    higher weight never loses it.
    """
    return _draws(keys) < weight


def _draws(keys: ArticleKeys) -> np.ndarray:
    """Numbers in [0, 1) that follow from the keys and not from what splits train and validation."""
    columns = (keys.pmid, keys.doi, keys.pmcid)
    kinds = [column != UNKNOWN for column in columns]
    key = np.select(kinds, columns).astype(np.uint64)
    kind = np.select(kinds, (1, 2, 3)).astype(np.uint64)  # PMID 5 is not PMCID 5
    mixed = key + kind * np.uint64(_STEP)  # modulo 2**64, as all that follows
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_MIX[0])
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_MIX[1])
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)) * 2.0**-53


def histogram(weight: np.ndarray) -> Counter[str]:
    """Numbers of documents by weight, in steps of a tenth: "0.3" counts 0.3 up to 0.4, "1.0" whole ones."""
    # A float32 of 0.3 is a little more than 0.3, one of 0.7 a little less.
    tenths = np.floor(weight.astype(np.float64) * 10 + 1e-6).astype(np.int64)
    counted = np.bincount(tenths, minlength=11)
    return Counter({f"{tenth / 10:.1f}": int(n) for tenth, n in enumerate(counted) if n})
