"""Citation markers in running text: taken out without leaving "[ , – ]", kept readable, or made tokens.

The walk over the XML marks each marker with characters that XML cannot contain; when the paragraph is
whole, `resolved` turns them into text.
"""

import re
from functools import lru_cache

_MARKER = "\x01"  # a citation by number, or one that nothing is known of
_OPEN, _CLOSE = "\x02", "\x03"  # around a citation by name and year
_TOKEN, _TOKEN_END = "\x0e", "\x0f"  # around what stands for a citation
_NOTE, _NOTE_END = "\x10", "\x11"  # around a footnote
_RAISED, _RAISED_END = "\x12", "\x13"  # around markers that are printed raised
_KEPT, _KEPT_END = "\x14", "\x15"  # around markers that stay as they are
_CITATION = re.compile(f"{_OPEN}[^{_CLOSE}]*{_CLOSE}|{_MARKER}")
_TOKENS = re.compile(f"{_TOKEN}[^{_TOKEN_END}]*{_TOKEN_END}")
_NOTES = re.compile(f"{_NOTE}[^{_NOTE_END}]*{_NOTE_END}")
_SHIELD = str.maketrans("()[]", "\x04\x05\x06\x07")
_SHIELDED = (("\x04", "("), ("\x05", ")"), ("\x06", "["), ("\x07", "]"))

# What stands between the citations of one group: commas, dashes (ranges), "and".
_SEPARATOR = r"(?:[\s,;:–—‒\-−⁻&/]|\band\b|\bor\b)"
_SEPARATORS = re.compile(f"{_SEPARATOR}*+")
_LONGEST_SEPARATOR = 200  # characters; what is longer is no separator, whatever it consists of
_BRACKETS_DEEP = 8  # brackets nested deeper around citations stay
_BRACKETS = re.compile(
    rf"(?P<open>[\[(])(?P<inner>[^\[\]()\x01-\x03]*+[{_MARKER}{_OPEN}][^\[\]()]*+)(?P<close>[\])])"
)
_TOKEN_BRACKETS = re.compile(
    rf"(?P<open>[\[(])(?P<inner>[^\[\]()\x0e]*+{_TOKEN}[^\[\]()]*+)(?P<close>[\])])"
)
_GROUP = re.compile(
    rf"(?<![\s,;:–—‒\-−⁻&/]){_SEPARATOR}*+{_MARKER}(?:{_SEPARATOR}*{_MARKER})*+{_SEPARATOR}*+"
)
_BETWEEN_TOKENS = re.compile(rf"(?<={_TOKEN_END})(?:{_SEPARATOR}|{_MARKER})++(?={_TOKEN})")
_BETWEEN_RAISED = re.compile(rf"{_RAISED_END}\s*([,;–—‒\-−⁻]?)\s*{_RAISED}")
_BEFORE_RAISED = re.compile(rf"(?<!\s)\s*+{_RAISED}")
_BEFORE_NOTE = re.compile(rf"(?<!\s)\s*+{_NOTE}")
_NOT_PRINTED = re.compile(f"[{_KEPT}{_KEPT_END}{_MARKER}\\[\\]]")
_SPACE_AFTER_TOKEN = re.compile(r"(?<=_ref\]) (?=[.,;:)\]])")
_ENDS_A_PHRASE = frozenset(".,;:)]")
_LETTERS = re.compile(r"[^\W\d_]{2}")  # a name or "et al.", not "3a"
_WORD = re.compile(r"[^\W_]+")
# Words that point to a citation and say nothing without one: "(reviewed in [3])", "(see e.g. [4])".
_POINTERS = frozenset({
    "see", "also", "e", "g", "eg", "i", "ie", "cf", "and", "or", "in", "for", "by", "from", "as",
    "reviewed", "review", "reviews", "ref", "refs", "reference", "references", "therein",
    "et", "al", "the", "example", "to", "details",
})  # fmt: skip
# The way in which most groups of numbers are printed, for speed alone.
_SIMPLE_BRACKETS = re.compile(rf"\[{_MARKER}(?:[,;–-] ?{_MARKER}|{_MARKER})*+\]")

NUMBERED = _MARKER
"""The mark of a citation, or of something unreadable, of which nothing may stay."""


@lru_cache(4096)
def citation_mark(text: str) -> str:
    """What stands in the running text for a citation whose marker reads `text`, to be dropped."""
    if not text.isdigit() and _LETTERS.search(text):
        return _OPEN + text.translate(_SHIELD) + _CLOSE
    return _MARKER


def kept_mark(text: str, is_raised: bool) -> str:
    """The same for a citation that is to be kept as it is printed."""
    if is_raised:
        return _RAISED + text.translate(_SHIELD) + _RAISED_END
    return _KEPT + text.translate(_SHIELD) + _KEPT_END


def token_mark(text: str, name: str) -> str:
    """The same for a citation that becomes "[name] text [/name]"."""
    return _TOKEN + _tokens(text, name) + _TOKEN_END


def token_text(text: str, name: str) -> str:
    """ "[name] text [/name]" in place, whatever stands around it."""
    return f" {_tokens(text, name)} "


def _tokens(text: str, name: str) -> str:
    return f"[{name}] {text} [/{name}]".translate(_SHIELD)


def note_mark(text: str) -> str:
    """What stands in the running text for a footnote: its text in parentheses."""
    return f"{_NOTE}({text})".translate(_SHIELD) + _NOTE_END


def split_superscript(text: str) -> tuple[str, str]:
    """What a superscript holds beside citations and notes, and the marks that follow it instead."""
    if text.isprintable():
        return text, ""
    after = "".join(_TOKENS.findall(text) + _NOTES.findall(text))
    text = _NOTES.sub(_MARKER, _TOKENS.sub(_MARKER, text))
    first, last = text.find(_KEPT), text.rfind(_KEPT_END)
    if first >= 0:
        printed = _unshielded(text[first:last])
        after = kept_mark(_NOT_PRINTED.sub("", printed), is_raised=True) + after
        text = text[:first] + _MARKER + text[last + 1 :]
    if not _CITATION.search(text):
        return text, after
    left = _CITATION.sub("", text).strip(" ,;:–—-−[]()\u00a0")
    return left, after or ("" if left else _MARKER)


def resolved(text: str) -> str:
    """`text` with each mark turned into what stands there in the end."""
    if _TOKEN in text:
        text = _with_tokens(text)
    if _RAISED in text:
        text = _BETWEEN_RAISED.sub(lambda sign: sign[1].replace("⁻", "–"), text)
        text = _BEFORE_RAISED.sub(" \x06", text).replace(_RAISED_END, "\x07")
    text = without_citations(text)
    if _NOTE in text:
        text = _BEFORE_NOTE.sub(" ", text).replace(_NOTE_END, "")
    return _unshielded(text.replace(_KEPT, "").replace(_KEPT_END, ""))


def without_citations(text: str) -> str:
    """`text` without citation markers, and without brackets, commas and pointers that served them alone.

    A citation by name outside brackets ("as Smith et al. [3] showed") is part of its sentence and
    stays.
    """
    if _MARKER not in text and _OPEN not in text:
        return text
    if f"[{_MARKER}" in text:
        text = _SIMPLE_BRACKETS.sub(_MARKER, text)
    if _OPEN in text or _is_in_brackets(text):
        for _ in range(_BRACKETS_DEEP):
            text, changes = _BRACKETS.subn(_bracket, text)
            if not changes:
                break
    text = _without_markers(text.split(_MARKER))
    return _unshielded(text.replace(_OPEN, "").replace(_CLOSE, "")) if _OPEN in text else text


def _is_in_brackets(text: str) -> bool:
    """Whether any marker is: the nearest bracket before it is an opening one."""
    opened = text.replace("[", "(").replace("]", ")").split("(")[1:]
    return any(_MARKER in part.partition(")")[0] for part in opened)


def _unshielded(text: str) -> str:
    for shield, bracket in _SHIELDED:
        text = text.replace(shield, bracket)
    return text


def _bracket(match: re.Match[str]) -> str:
    inner = _GROUP.sub(_joint, _CITATION.sub(_MARKER, match["inner"])).strip()
    if _only_points(inner, is_numeric=match["open"] == "["):
        return _MARKER  # an outer bracket may hold this one alone
    return match["open"] + inner + match["close"]


def _only_points(text: str, is_numeric: bool) -> bool:
    """Whether words say nothing without a citation; numbers in "[3, 7]" were not marked up as such."""
    words = (word.lower() for word in _WORD.findall(text))
    return all(word in _POINTERS or (is_numeric and word.isdigit()) for word in words)


def _joint(group: re.Match[str]) -> str:
    """What is left between the texts before and after a group of citations."""
    if group.start() == 0 or group.end() == len(group.string):
        return ""
    return "; " if ";" in group[0] else ", " if "," in group[0] else " "


def _without_markers(parts: list[str]) -> str:
    """The parts between markers joined: what separates markers goes with them, one comma stays."""
    joined = [parts[0]]
    for part in [*(part for part in parts[1:-1] if not _is_separator(part)), *parts[1:][-1:]]:
        before = joined[-1].rstrip()
        last = before[-1:]
        if (after := part.lstrip())[:1] in _ENDS_A_PHRASE:
            joined[-1] = before[:-1] if last in (",", ";") else before
            part = after
        elif last.isalnum() and part[:1].isalnum():
            joined[-1] = before + " "
        else:
            joined[-1] = before
        joined.append(part)
    return "".join(joined)


def _is_separator(text: str) -> bool:
    return len(text) <= _LONGEST_SEPARATOR and _SEPARATORS.fullmatch(text) is not None


def _with_tokens(text: str) -> str:
    """Tokens side by side, without the brackets and signs that held the markers together."""
    for _ in range(_BRACKETS_DEEP):
        text, changes = _TOKEN_BRACKETS.subn(_token_bracket, text)
        if not changes:
            break
    text = _BETWEEN_TOKENS.sub("", text)
    return text.replace(_TOKEN, " ").replace(_TOKEN_END, " ")


def _token_bracket(match: re.Match[str]) -> str:
    words = _CITATION.sub("", _TOKENS.sub("", match["inner"]))
    if _only_points(words, is_numeric=match["open"] == "["):
        return "".join(_TOKENS.findall(match["inner"]))
    # Shielded, so that the next pass sees no bracket here.
    opening, closing = match["open"].translate(_SHIELD), match["close"].translate(_SHIELD)
    return opening + match["inner"] + closing


def tidy_tokens(text: str) -> str:
    """`text`, white space normalised, without the spaces that tokens bring before a full stop or bracket."""
    return _SPACE_AFTER_TOKEN.sub("", text).replace("( [", "([")
