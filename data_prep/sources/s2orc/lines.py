"""Lines of text of a paper in S2ORC, with its citations and references to figures as the config wants them."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from data_prep.sources.jats.citations import (
    citation_mark,
    resolved,
    tidy_tokens,
    token_mark,
    token_text,
)
from data_prep.sources.jats.references import short_caption, shortened
from data_prep.sources.markup import normalised
from data_prep.sources.s2orc.spans import Annotations, Span

Citations = Literal["drop", "keep", "tokens"]

_LEFT_OUT = ("author", "authoraffiliation", "bibentry", "publisher")
_REFERENCES = ("bibref", "figureref", "tableref", "formula")
# Places are marked with characters below the blank; what the text has of them would pass for a mark.
_CONTROLS = dict.fromkeys([*range(9), *range(14, 32)]) | dict.fromkeys((11, 12), " ")


@dataclass(frozen=True)
class Bibliography:
    """Where the entries of the list of references are: in the paper's own text, or in one beside it."""

    text: str
    annotations: Annotations


@dataclass(frozen=True)
class _Part:
    """A part of a line that is not plain text."""

    span: Span
    kind: str


class LineWriter:
    """Writes spans of a paper as lines.

    `drop`: no citations, nor brackets that served them alone. `keep`: as in the text. `tokens`: as
    MEDITRON's "[bib_ref] title, author [/bib_ref]" and "[fig_ref] label: caption [/fig_ref]"; citations whose entry is unknown are dropped.
    """

    def __init__(self, text: str, annotations: Annotations, bibliography: Bibliography):
        self._text = text
        self._annotations = annotations
        self._bibliography = bibliography
        self._entries = _by_id(bibliography.annotations.spans("bibentry"))
        self._figures = _by_id(annotations.spans("figure"))
        self._shown: dict[str, str | None] = {}  # entries of the bibliography
        self._parts = sorted(
            (
                _Part(span, kind)
                for kind in (*_LEFT_OUT, *_REFERENCES)
                for span in annotations.spans(kind)
            ),
            key=lambda part: (part.span.start, -part.span.end),
        )

    def line(self, span: Span, citations: Citations) -> str:
        """The text of a span on one line."""
        text = normalised(resolved("".join(self._pieces(span, citations))))
        return tidy_tokens(text) if citations == "tokens" else text

    def plain(self, span: Span) -> str:
        """The text of a span on one line, as it is."""
        return normalised(cleaned(span.of(self._text)))

    def caption(self, figure: Span, citations: Citations) -> tuple[str, str]:
        """("Figure 1", what it shows): the first caption of a figure and what stands before it; ("", "") where it has none."""
        captions = self._annotations.within("figurecaption", figure)
        if not captions:
            return "", ""
        before = cleaned(self._text[figure.start : captions[0].start])
        lines = [line for line in map(normalised, before.splitlines()) if line]
        label = lines[0].strip(" .:()") if lines else ""
        caption = self.line(captions[0], citations)
        if label and caption.lower().startswith(label.lower()):
            caption = caption[len(label) :].lstrip(" .:)")
        return label, caption

    def _pieces(self, outer: Span, citations: Citations) -> Iterator[str]:
        place = outer.start
        first = bisect_left(self._parts, outer.start, key=lambda part: part.span.start)
        for part in self._parts[first:]:
            span = part.span
            if span.start >= outer.end:
                break
            whole = (span.start, span.end) == (outer.start, outer.end)
            if span.start < place or span.end > outer.end or whole:
                continue
            if (piece := self._replaced(part, citations)) is not None:
                yield cleaned(self._text[place : span.start])
                yield piece
                place = span.end
        yield cleaned(self._text[place : outer.end])

    def _replaced(self, part: _Part, citations: Citations) -> str | None:
        """What stands in a line for a part of it; None where that part stays as it is."""
        if part.kind in _LEFT_OUT:
            return " "
        if citations == "keep":
            return None
        text = cleaned(part.span.of(self._text))
        target = str(part.span.attributes.get("ref_id"))
        if part.kind == "bibref":
            shown = self._cited(target) if citations == "tokens" else None
            return _between_brackets(text, token_mark(shown, "bib_ref") if shown else None)
        if citations == "drop":
            return None
        if part.kind == "formula":
            return token_text(normalised(text), "formula")
        figure = self._figures.get(target)
        shown = self._short_caption(figure) if figure else None
        return token_text(shown, "fig_ref") if shown else None

    def _short_caption(self, figure: Span) -> str:
        """ "Figure 1: what it shows", in a few words."""
        label, caption = self.caption(figure, "drop")
        return ": ".join(filter(None, [label, short_caption(caption)]))

    def _cited(self, target: str) -> str | None:
        """Title and first author; None where the entry is unknown or lacks one, as MEDITRON leaves such out."""
        if target not in self._shown:
            entry = self._entries.get(target)
            self._shown[target] = self._entry(entry) if entry else None
        return self._shown[target]

    def _entry(self, entry: Span) -> str | None:
        found = [
            self._bibliography.annotations.within(kind, entry)
            for kind in ("bibtitle", "bibauthorlastname")
        ]
        if not all(found):
            return None
        title, author = (
            normalised(cleaned(spans[0].of(self._bibliography.text))) for spans in found
        )
        return f"{shortened(title.rstrip('.'))}, {author}"


def cleaned(text: str) -> str:
    """The text without control characters."""
    return text.translate(_CONTROLS)


def _by_id(spans: list[Span]) -> dict[str, Span]:
    """The first span of each id."""
    return {
        str(span.attributes["id"]): span for span in reversed(spans) if span.attributes.get("id")
    }


def _between_brackets(text: str, mark: str | None = None) -> str:
    """A citation's mark between the brackets that its span took along: "[3," is "[", a citation and ","."""
    inner, before, after = text.strip(), "", ""
    while inner.startswith(("(", "[")):
        before, inner = before + inner[0], inner[1:]
    while inner.endswith((",", ";")) or _closes_too_often(inner):
        inner, after = inner[:-1], inner[-1] + after
    return before + (mark or citation_mark(inner)) + after


def _closes_too_often(text: str) -> bool:
    opening = {")": "(", "]": "["}.get(text[-1:])
    return opening is not None and text.count(text[-1]) > text.count(opening)
