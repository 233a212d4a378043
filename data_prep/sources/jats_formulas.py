"""Which of several renderings of a formula or figure in JATS becomes text."""

from collections.abc import Callable

from lxml import etree

from data_prep.sources.markup import append_text, inline_text
from data_prep.sources.mathml import mathml_text
from data_prep.sources.tex_math import tex_math

# The readable form of a formula or figure, best first; the others show the same again.
_ALTERNATIVES = ("tex-math", "math", "textual-form", "p")

Special = Callable[[etree._Element, list[str]], bool]
"""What treats the elements of a line that are more than their text, as `append_text` calls it."""


def formula_text(element: etree._Element, special: Special) -> str:
    """One rendering of a formula that may hold several side by side, TeX before MathML."""
    for name in ("tex-math", "math"):
        found = element.findall(f".//{name}")
        if found:
            convert = mathml_text if name == "math" else lambda tex: tex_math(inline_text(tex))
            return " ".join(convert(formula) for formula in found)
    inner: list[str] = []
    append_text(element, inner, special)
    return "".join(inner)


def best_alternative(element: etree._Element, special: Special) -> str:
    """The most readable child of an <alternatives>; nothing where it holds pictures alone."""
    for name in _ALTERNATIVES:
        child = element.find(name)
        if child is not None:
            is_formula = name in ("tex-math", "math")
            return formula_text(element, special) if is_formula else inline_text(child, special)
    return ""


def shows_twice(element: etree._Element) -> bool:
    """Whether this is a formula with two renderings side by side, not within <alternatives>."""
    return all(element.find(name) is not None for name in ("tex-math", "math"))
