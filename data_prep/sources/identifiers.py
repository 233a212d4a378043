"""Identifiers of articles in one spelling, whatever the source wrote."""

import re

# With sub-prefixes ("10.1000.10/…"), else the pattern that Crossref recommends for matching DOIs
# (https://www.crossref.org/blog/dois-and-matching-regular-expressions/).
DOI = r"10\.\d{4,9}(?:\.\d+)*/\S+"

_PMCID = re.compile(r"(?:PMC)?([0-9]{1,18})(?:\.([0-9]+))?", re.IGNORECASE)
_OLD_PMCID = re.compile(r"pmc-id:\s*(PMC\d+)")  # "pmc-id: PMC123;manuscript-id: NIHMS456"
_DOI = re.compile(DOI)


def normalised_pmcid(text: str) -> str | None:
    """ "PMC123" from "PMC123", "pmc123", "123" or "PMC123.2" (a version); None where it is none."""
    old = _OLD_PMCID.search(text)
    match = _PMCID.fullmatch(old[1] if old else text.strip())
    return f"PMC{match[1]}" if match else None


def pmcid_version(text: str) -> int | None:
    """2 from "PMC123.2"; None where no version is written."""
    match = _PMCID.fullmatch(text.strip())
    return whole_number(match[2] or "", digits=4) if match else None


def whole_number(text: str, digits: int = 18) -> int | None:
    """A positive whole number of so many digits at most; those of 18 all fit into 64 bits."""
    return (int(text) or None) if re.fullmatch(rf"[0-9]{{1,{digits}}}", text) else None


def normalised_doi(text: str) -> str | None:
    """The DOI in lower case, without "doi:" or a resolver's address; None where it is none."""
    match = _DOI.search(text.strip())
    return match[0].lower() if match else None


def first_year(text: str) -> int | None:
    """The first number of four digits: 1998 from "1998 Dec-1999 Jan"."""
    match = re.search(r"(?<!\d)\d{4}(?!\d)", text)
    return int(match[0]) if match else None
