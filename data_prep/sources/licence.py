"""Licence codes of articles: lower-case SPDX names as far as the article's XML tells."""

import re
from collections.abc import Iterator

from lxml import etree

from data_prep.documents import NLM_TERMS
from data_prep.source_config import LicenceGroup
from data_prep.sources.markup import inline_text

CUSTOM = "custom"
_COMMERCIAL = ("cc0", "cc-by", "cc-by-sa", "cc-by-nd")
_NONCOMMERCIAL = ("cc-by-nc", "cc-by-nc-sa", "cc-by-nc-nd")
_XLINK = "{http://www.w3.org/1999/xlink}href"
# creativecommons.org/licenses/by-nc/4.0/ … and the dedication publicdomain/zero/1.0.
_URL = re.compile(
    r"creativecommons\.org/(?:licen[sc]es/by((?:-(?:nc|sa|nd))*)|(publicdomain/zero))(?:/(\d\.\d))?",
    re.IGNORECASE,
)
# "Creative Commons Attribution License (CC BY-NC 4.0)": the letters say more than the name.
_LETTERS = re.compile(r"\bcc[- ]by((?:[- ](?:nc|sa|nd))+)\b(?:[- ](\d\.\d))?", re.IGNORECASE)
# Publishers' sentences: "the Creative Commons Attribution Non-Commercial License".
# PMC's lists: "CC BY-NC 4.0" with blanks for the hyphens.
_LISTED = re.compile(r"cc by((?: (?:nc|sa|nd))*)(?: (\d\.\d))?")
_NAME = re.compile(
    r"creative commons\s+(?:cc[- ]?by\s+)?(attribution(?:[-– ]*(?:non[- ]?commercial|share[- ]?alike|no[- ]?deriv\w*))*)"
    r"|creative commons\s+(cc0|zero)",
    re.IGNORECASE,
)
_TERMS = (("nc", "commercial"), ("sa", "share"), ("nd", "deriv"))


def licence_code(front: etree._Element) -> str | None:
    """The licence of the article whose front matter (tags without namespaces) this is.

    "cc-by-4.0" from an address in an attribute, in ali:license_ref or in the text; "cc-by" where the
    text only names it; terms in the order that creativecommons.org has now; "custom" for a licence that is none of these; None where there is none.
    """
    statements = list(_statements(front))
    for pattern in (_code_from_url, _code_from_letters, _code_from_name):
        for statement in statements:
            if code := pattern(statement):
                return code
    return CUSTOM if front.find(".//license") is not None else None


def named_licence(text: str) -> str | None:
    """The code of a licence that a list names: "cc-by-nc" of "CC BY-NC" or of its address; "custom" for any other name."""
    if code := _code_from_url(text):
        return code
    words = re.sub(r"[\s_-]+", " ", text).strip().lower()
    if not words:
        return None
    if words.replace(" ", "").startswith("cc0"):
        return "cc0"
    match = _LISTED.fullmatch(words)
    return _code(match[1], match[2]) if match else CUSTOM


def licence_group(code: str | None) -> LicenceGroup:
    """commercial, noncommercial, other or nlm-terms: the groups by which NLM divides PMC.

    (https://pmc.ncbi.nlm.nih.gov/tools/openftlist/: CC0, BY, BY-SA and BY-ND allow commercial use,
    the NC licences do not, custom licences and none are "other".) Citations are a group of their own.
    """
    if code == NLM_TERMS:
        return "nlm-terms"
    family = re.sub(r"-\d.*$", "", code or "")
    if family in _COMMERCIAL:
        return "commercial"
    return "noncommercial" if family in _NONCOMMERCIAL else "other"


def _statements(front: etree._Element) -> Iterator[str]:
    """Everything that may name the licence, the most explicit first."""
    licences = list(front.iter("license"))
    for element in licences:
        yield element.get(_XLINK, "")
        yield from (inline_text(reference) for reference in element.iter("license_ref"))
        yield from (link.get(_XLINK, "") for link in element.iter("ext-link", "uri"))
    yield from (inline_text(reference) for reference in front.iter("license_ref"))
    yield from (inline_text(element) for element in licences)
    # Articles of before 2008 have the licence's sentence in the copyright statement.
    yield from (inline_text(element) for element in front.iter("copyright-statement"))


def _code_from_url(text: str) -> str | None:
    match = _URL.search(text)
    if match is None:
        return None
    terms, zero, version = match.groups()
    return "cc0" if zero else _code(terms.lower(), version)


def _code_from_letters(text: str) -> str | None:
    match = _LETTERS.search(text)
    return _code(match[1].lower(), match[2]) if match else None


def _code(terms: str, version: str | None = None) -> str:
    """The code of the terms that any of their spellings stands for, whatever their order."""
    named = [code for code, word in _TERMS if code in re.split("[- ]", terms) or word in terms]
    return "-".join(["cc-by", *named, *([version] if version else [])])


def _code_from_name(text: str) -> str | None:
    match = _NAME.search(text)
    if match is None:
        return None
    if match[2]:
        return "cc0"
    return _code(match[1].lower())
