"""LaTeX formulas out of the documents that publishers wrap around each of them."""

import re

# LaTeX's own preamble, which some publishers repeat in every formula.
_PREAMBLE_LINE = re.compile(
    # Bounded: without its closing bracket an option would be sought to the end of the formula each time.
    r"\\(?:documentclass|usepackage|setlength)(?:\[[^\]]{0,200}\])?(?:\{[^}]{0,200}\})*"
)


def tex_math(text: str) -> str:
    r"""A formula as $…$, without the LaTeX document that publishers put around it.

    Takes what stands between \begin{document} and \end{document}; where there is none, all but the
    lines of a preamble. Formulas with no delimiters of their own get them.
    """
    _, begin, body = text.rpartition(r"\begin{document}")
    body = body.partition(r"\end{document}")[0] if begin else _PREAMBLE_LINE.sub("", body)
    body = body.strip()
    for opening, closing in (("$$", "$$"), (r"\[", r"\]"), (r"\(", r"\)"), ("$", "$")):
        if body.startswith(opening) and body.endswith(closing) and len(body) > 2 * len(opening):
            body = body[len(opening) : -len(closing)].strip()
            break
    return f"${body}$" if body else ""
