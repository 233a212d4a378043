"""Superscript and subscript text: Unicode characters where there are any, else ^{…} and _{…}."""

from functools import lru_cache

# The digits, signs and letters that Unicode gives a raised or lowered form ("<super>" and "<sub>"
# decompositions of the Unicode character database). Hyphens and dashes stand for a minus sign there.
_SUPERSCRIPTS = dict(
    zip(
        "0123456789+-‐‑–−=()abcdefghijklmnoprstuvwxyzABDEGHIJKLMNOPRTUVWβγδθφχ",
        "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁻⁻⁻⁼⁽⁾ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻᴬᴮᴰᴱᴳᴴᴵᴶᴷᴸᴹᴺᴼᴾᴿᵀᵁⱽᵂᵝᵞᵟᶿᵠᵡ",
        strict=True,
    )
)
_SUBSCRIPTS = dict(
    zip(
        "0123456789+-‐‑–−=()aehijklmnoprstuvxβγρφχ",
        "₀₁₂₃₄₅₆₇₈₉₊₋₋₋₋₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓᵦᵧᵨᵩᵪ",
        strict=True,
    )
)
# Signs that are raised by nature: "<sup>°</sup>C" is 5 °C, not 5^{°}C.
_SUPERSCRIPTS |= {sign: sign for sign in "°′″‴™®"} | {"∘": "°"}

# Characters that show nothing: soft hyphen, zero-width space, byte order mark.
_UNSEEN = ("\u00ad", "\u200b", "\ufeff")

_SHORT = 12  # characters: the few short scripts ("2", "-1", "max") that texts repeat are remembered


def without_unseen(text: str) -> str:
    """`text` without soft hyphens and other characters that show nothing."""
    if not text.isascii():
        for character in _UNSEEN:
            text = text.replace(character, "")
    return text


def superscript(text: str) -> str:
    """`text` raised: 10 + superscript("-5") is 10⁻⁵; ^{…} where a character has no raised form."""
    return _superscript(text) if len(text) <= _SHORT else _script(text, _SUPERSCRIPTS, "^")


def subscript(text: str) -> str:
    """`text` lowered: H + subscript("2") is H₂; _{…} where a character has no lowered form."""
    return _subscript(text) if len(text) <= _SHORT else _script(text, _SUBSCRIPTS, "_")


@lru_cache(4096)
def _superscript(text: str) -> str:
    return _script(text, _SUPERSCRIPTS, "^")


@lru_cache(4096)
def _subscript(text: str) -> str:
    return _script(text, _SUBSCRIPTS, "_")


def _script(text: str, characters: dict[str, str], sign: str) -> str:
    text = without_unseen(text)
    inner = text.strip()
    if not inner:
        return text
    # Space at the edges separates words, so it stays outside.
    before = text[: len(text) - len(text.lstrip())]
    after = text[len(text.rstrip()) :]
    compact = "".join(inner.split())
    if all(character in characters for character in compact):
        return before + "".join(characters[character] for character in compact) + after
    return f"{before}{sign}{{{inner}}}{after}"
