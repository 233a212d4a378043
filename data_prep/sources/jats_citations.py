"""Takes citation markers out of running text without leaving "[ , – ]" behind.

The walk over the XML marks each marker with characters that XML cannot contain; when the paragraph is
whole, `without_citations` removes them together with what belongs to them alone.
"""

import re

_MARKER = "\x01"  # a citation by number
_OPEN, _CLOSE = "\x02", "\x03"  # around a citation by name and year
_CITATION = re.compile(f"{_OPEN}[^{_CLOSE}]*{_CLOSE}|{_MARKER}")
_SHIELD = str.maketrans("()[]", "\x04\x05\x06\x07")
_UNSHIELD = str.maketrans("\x04\x05\x06\x07", "()[]")

# What stands between the citations of one group: commas, dashes (ranges), "and".
_SEPARATOR = r"(?:[\s,;:–—‒\-−⁻&/]|\band\b|\bor\b)"
_BRACKETS = re.compile(
    rf"(?P<space>\s*)(?P<open>[\[(])(?P<inner>[^\[\]()]*[{_MARKER}{_OPEN}][^\[\]()]*)(?P<close>[\])])"
)
_GROUP = re.compile(rf"{_SEPARATOR}*{_MARKER}(?:{_SEPARATOR}*{_MARKER})*{_SEPARATOR}*")
_RUN = re.compile(
    rf"(?P<comma>[,;]?)\s*{_MARKER}(?:{_SEPARATOR}*{_MARKER})*(?P<next>\s*[.,;:)\]])?"
)
_WORD = re.compile(r"[^\W_]+")
# Words that point to a citation and say nothing without one: "(reviewed in [3])", "(see e.g. [4])".
_POINTERS = frozenset({
    "see", "also", "e", "g", "eg", "i", "ie", "cf", "and", "or", "in", "for", "by", "from", "as",
    "reviewed", "review", "reviews", "ref", "refs", "reference", "references", "therein",
    "et", "al", "the", "example", "to", "details",
})  # fmt: skip


def citation_mark(text: str) -> str:
    """What stands in the running text for a citation whose marker reads `text`."""
    if re.search(r"[^\W\d_]{2}", text):
        return _OPEN + text.translate(_SHIELD) + _CLOSE
    return _MARKER


def superscript_without_citations(text: str) -> str | None:
    """What is left of a superscript; None where it held citations and nothing else."""
    if not _CITATION.search(text):
        return text
    left = _CITATION.sub("", text).strip(" ,;:–—-−[]()\u00a0")
    return left or None


def without_citations(text: str) -> str:
    """`text` without citation markers, and without brackets, commas and pointers that served them alone.

    A citation by name outside brackets ("as Smith et al. [3] showed") is part of its sentence and
    stays.
    """
    if not _CITATION.search(text):
        return text
    changes = 1
    while changes:
        text, changes = _BRACKETS.subn(_bracket, text)
    text = _RUN.sub(_between, text)
    return text.replace(_OPEN, "").replace(_CLOSE, "").translate(_UNSHIELD)


NUMBERED = _MARKER
"""The mark of a citation, or of something unreadable, of which nothing may stay."""


def _bracket(match: re.Match[str]) -> str:
    inner = _GROUP.sub(_joint, _CITATION.sub(_MARKER, match["inner"])).strip()
    words = [word.lower() for word in _WORD.findall(inner)]
    is_numeric = match["open"] == "["  # a number that was not marked up: "[3, 7]"
    if all(word in _POINTERS or (is_numeric and word.isdigit()) for word in words):
        return _MARKER  # an outer bracket may hold this one alone
    return match["space"] + match["open"] + inner + match["close"]


def _joint(group: re.Match[str]) -> str:
    """What is left between the texts before and after a group of citations."""
    if group.start() == 0 or group.end() == len(group.string):
        return ""
    return "; " if ";" in group[0] else ", " if "," in group[0] else " "


def _between(run: re.Match[str]) -> str:
    """What stands in place of citations between two words or signs: one comma, no glued words."""
    if run["next"]:
        return run["next"].strip()
    before = run.string[run.start() - 1 : run.start()]
    after = run.string[run.end() : run.end() + 1]
    return run["comma"] or (" " if before.isalnum() and after.isalnum() else "")
