"""Which documents stay, each rule a pure function of one document and the settings.

A filter returns None, or the reason to drop the document: its own name in `FILTERS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal, TypedDict

from data_prep.config import Curate
from data_prep.documents import NLM_TERMS, Document

COMMERCIAL = ("cc0", "cc-by", "cc-by-sa", "cc-by-nd")
NONCOMMERCIAL = ("cc-by-nc", "cc-by-nc-sa", "cc-by-nc-nd")

UNDETERMINED = "und"  # ISO 639-2's code for a language that nobody stated


class FilterSettings(TypedDict):
    """The part of the config's `curate` section that the filters read."""

    languages: list[str]
    require_abstract: bool
    min_characters: int
    licences: list[str]


def filter_settings(curate: Curate) -> FilterSettings:
    """What the filters read of the config; the order in which lists were written does not matter."""
    return {
        "languages": sorted(curate.languages),
        "require_abstract": curate.require_abstract,
        "min_characters": curate.min_characters,
        "licences": sorted(curate.licences),
    }


def drop_reason(document: Document, settings: FilterSettings) -> str | None:
    """The name of the first filter that drops the document, or None."""
    for drops in FILTERS:
        if reason := drops(document, settings):
            return reason
    return None


def language(document: Document, settings: FilterSettings) -> str | None:
    """Drop a document known to be in another language; an empty list accepts all."""
    accepted = accepts_language(document["metadata"]["language"], settings)
    return None if accepted else "language"


def no_abstract(document: Document, settings: FilterSettings) -> str | None:
    """Drop a PubMed citation that is a title alone."""
    metadata = document["metadata"]
    is_title = metadata["licence"] == NLM_TERMS and not metadata["abstract"]
    return "no_abstract" if settings["require_abstract"] and is_title else None


def too_short(document: Document, settings: FilterSettings) -> str | None:
    """Drop a text of fewer characters than `min_characters`, title included."""
    return "too_short" if len(document["text"]) < settings["min_characters"] else None


def licence(document: Document, settings: FilterSettings) -> str | None:
    """Drop a document whose licence group is not accepted."""
    return None if accepts_licence(document["metadata"]["licence"], settings) else "licence"


FILTERS: tuple[Callable[[Document, FilterSettings], str | None], ...] = (
    language,
    no_abstract,
    too_short,
    licence,
)


def accepts_language(code: str | None, settings: FilterSettings) -> bool:
    """Whether a language code (None: not known) is accepted."""
    wanted = settings["languages"]
    return not wanted or code in (None, UNDETERMINED) or code in wanted


def accepts_licence(code: str | None, settings: FilterSettings) -> bool:
    """Whether a licence code's group is accepted."""
    return licence_group(code) in settings["licences"]


def licence_group(code: str | None) -> str:
    """commercial, noncommercial, other or nlm-terms: the groups by which NLM divides PMC.

    (https://pmc.ncbi.nlm.nih.gov/tools/openftlist/: CC0, BY, BY-SA and BY-ND allow commercial use,
    the NC licences do not, custom licences and none are "other".) Citations are a group of their own.
    """
    if code == NLM_TERMS:
        return NLM_TERMS
    family = _without_version(code or "")
    if family in COMMERCIAL:
        return "commercial"
    return "noncommercial" if family in NONCOMMERCIAL else "other"


def _without_version(code: str) -> str:
    name, _, version = code.rpartition("-")
    return name if name and version[:1].isdigit() else code


def split_of(article_key: str, validation_fraction: float) -> Literal["train", "validation"]:
    """Which split an article falls into: by its key alone, so that it stays there as the corpus grows.

    A larger fraction moves articles from train to validation and none back.
    """
    drawn = int.from_bytes(hashlib.sha256(article_key.encode()).digest()[:8], "big")
    return "validation" if drawn < validation_fraction * 2**64 else "train"
