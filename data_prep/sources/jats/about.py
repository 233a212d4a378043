"""What PMC's list says about an article (its metadata JSON), joined with what the article's XML says."""

from collections import Counter
from typing import Any

from data_prep.sources.identifiers import normalised_doi, normalised_pmcid, whole_number
from data_prep.sources.licence import CUSTOM, licence_group, named_licence

_RESTRICTIONS = ("commercial", "noncommercial", "other")  # what is neither allows least


def merge_about(metadata: dict[str, Any], about: dict[str, Any], tally: Counter[str]) -> None:
    """Add to an article's metadata what the list knows.

    `about` is PMC's metadata JSON (pmcid, version, pmid, doi, license_code, is_retracted,
    is_manuscript, is_historical_ocr; https://pmc.ncbi.nlm.nih.gov/tools/pmcaws/). Its licence counts where
    the XML names none or a custom one; where the XML's is one of Creative Commons' and their groups
    differ, the more restrictive one is taken and `tally` counts "licence disagreements".
    """
    readers = (("pmid", whole_number), ("pmcid", normalised_pmcid), ("doi", normalised_doi))
    for key, read in readers:
        metadata[key] = metadata[key] or read(str(about.get(key) or ""))
    metadata["version"] = (
        whole_number(str(about.get("version") or ""), digits=4) or metadata["version"]
    )
    for key, name in (
        ("retracted", "is_retracted"),
        ("manuscript", "is_manuscript"),
        ("ocr", "is_historical_ocr"),
    ):
        metadata[key] = metadata[key] or _is_true(about.get(name))
    listed = named_licence(str(about.get("license_code") or ""))
    metadata["licence"] = _joined_licence(metadata["licence"], listed, tally)


def _is_true(value: Any) -> bool:
    return value is True or str(value).lower() in ("true", "yes", "1")


def _joined_licence(own: str | None, listed: str | None, tally: Counter[str]) -> str | None:
    if own in (None, CUSTOM):
        return listed or own
    if listed is None or _restriction(own) == _restriction(listed):
        return own
    tally["licence disagreements"] += 1
    return max(own, listed, key=_restriction)


def _restriction(code: str | None) -> int:
    return _RESTRICTIONS.index(licence_group(code))
