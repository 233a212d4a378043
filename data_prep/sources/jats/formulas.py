"""Which of several renderings of a formula or figure in JATS becomes text."""

from lxml import etree

from data_prep.sources.markup import Markup, inline_text, raw_text
from data_prep.sources.mathml import local_name, mathml_text
from data_prep.sources.tex_math import tex_math

# The readable form of a formula or figure, best first; the others show the same again.
_ALTERNATIVES = ("tex-math", "math", "textual-form", "p")


def formula_text(element: etree._Element, markup: Markup, state: object) -> str:
    """One rendering of a formula that may hold several side by side, TeX before MathML."""
    formulas = list(element.iter("tex-math", "{*}math"))
    if tex := [formula for formula in formulas if formula.tag == "tex-math"]:
        return " ".join(tex_math(inline_text(formula)) for formula in tex)
    if formulas:
        return " ".join(mathml_text(formula) for formula in formulas)
    return raw_text(element, markup, state)


def best_alternative(element: etree._Element, markup: Markup, state: object) -> str:
    """The most readable child of an <alternatives>; nothing where it holds pictures alone."""
    children = {local_name(child): child for child in reversed(element)}
    for name in _ALTERNATIVES:
        if name in children:
            is_formula = name in ("tex-math", "math")
            read = formula_text if is_formula else inline_text
            return read(children[name], markup, state)
    return ""


def shows_twice(element: etree._Element) -> bool:
    """Whether this is a formula with two renderings side by side, not within <alternatives>."""
    names = {local_name(child) for child in element}
    return "tex-math" in names and "math" in names
