"""Running text of a paper in S2ORC: headings, paragraphs, formulas and captions, without what is around them."""

import re
from dataclasses import dataclass

from data_prep.sources.s2orc.lines import Bibliography, Citations, LineWriter
from data_prep.sources.s2orc.spans import Annotations, Span

# Sections that JATS articles have in their back matter.
_BACK_MATTER = re.compile(
    r"acknowledge?ments?|references|bibliography|author(?:s['’]?|['’]s)? contributions?"
    r"|(?:financial|conflicts? of|competing|declaration of(?: competing)?) (?:interests?|disclosures?)(?: statement)?"
    r"|fundings?(?: (?:statement|support|information|sources?|disclosure))?|publisher['’]?s note",
    re.IGNORECASE,
)
# Sections without a number that are main ones: MEDITRON's list (gap-replay/pubmed/process.py).
_MAIN = re.compile(
    r"abstract|introduction|background|related|method|material|result|analysis|discussion"
    r"|conclusion|contribution|statement|declaration|strength|limitation|future research"
    r"|disclosure|ethical|tables|figures|appendix",
    re.IGNORECASE,
)
_MAIN_WORDS = 3  # of such a section's title at most, as there
_DEEPEST = 6  # Markdown's
_KINDS = ("abstract", "sectionheader", "paragraph", "formula", "figure", "figurecaption")


@dataclass(frozen=True)
class _Block:
    span: Span
    kind: str


class PaperText:
    """The readable parts of a paper: `title`, `abstract`, `body` (blocks) and `sections` (titles of those with text)."""

    def __init__(
        self, text: str, annotations: Annotations, bibliography: Bibliography, citations: Citations
    ):
        self._annotations = annotations
        self._lines = LineWriter(text, annotations, bibliography)
        self._citations = citations
        self._headings: list[tuple[int, str]] = []  # opened and without text so far
        self.title = "".join(map(self._lines.plain, annotations.spans("title")[:1]))
        self.sections: list[str] = []
        self.body: list[str] = []
        self.paragraphs = (
            0  # of the body; the others of its blocks are headings, formulas, captions
        )
        abstract: list[str] = []
        is_left_out, end = False, 0
        for block in self._blocks():
            # What overlaps an earlier block is not said again.
            span = Span(max(block.span.start, end), block.span.end, block.span.attributes)
            if span.start >= span.end:
                continue
            end = span.end
            if block.kind == "sectionheader":
                is_left_out = self._open(span)
            elif block.kind == "abstract":
                self._headings.clear()  # its own, "Abstract"
                abstract.append(self._lines.line(span, citations))
            elif not is_left_out:
                self._emit(self._rendered(block.kind, span))
                self.paragraphs += block.kind == "paragraph"
        self.abstract = "\n".join(filter(None, abstract))

    def _blocks(self) -> list[_Block]:
        """Everything that may become text, in order, without the front matter."""
        spans = {kind: self._annotations.spans(kind) for kind in _KINDS}
        figures = spans["figure"]
        for kind in ("sectionheader", "figurecaption"):  # of a figure: its label and caption
            spans[kind] = [span for span in spans[kind] if not _lies_in(span, figures)]
        spans["figure"] = [
            Span(figure.start, captions[0].end, figure.attributes)  # a table's body follows
            for figure in figures
            if (captions := self._annotations.within("figurecaption", figure))
        ]
        begin = min((span.start for span in spans["abstract"] + spans["sectionheader"]), default=0)
        if not spans["abstract"] and all(span.start < begin for span in spans["paragraph"]):
            begin = 0  # the only headings are those of what follows the text
        return sorted(
            (_Block(span, kind) for kind in _KINDS for span in spans[kind] if span.start >= begin),
            key=lambda block: (block.span.start, -block.span.end),
        )

    def _open(self, header: Span) -> bool:
        """Begin a section; whether it is one whose text is left out."""
        title = self._lines.plain(header).strip(" .:")
        if not title:
            return False
        level = _level(str(header.attributes.get("n") or ""), title)
        self._headings = [heading for heading in self._headings if heading[0] < level]
        if _BACK_MATTER.fullmatch(title):
            return True
        self._headings.append((level, title))
        return False

    def _emit(self, text: str) -> None:
        if not text:
            return
        for level, title in self._headings:
            self.body.append("#" * level + " " + title)
            self.sections.append(title)
        self._headings.clear()
        self.body.append(text)

    def _rendered(self, kind: str, span: Span) -> str:
        if kind == "figure":
            text = ": ".join(filter(None, self._lines.caption(span, self._citations)))
            is_table = str(span.attributes.get("id")).startswith("tab")
            token = "table" if is_table else "fig"
        else:
            text = self._lines.line(span, self._citations)
            token = {"formula": "formula", "figurecaption": "fig"}.get(kind, "")
        if text and token and self._citations == "tokens":
            return f"[{token}] {text} [/{token}]"
        return text


def _level(number: str, title: str) -> int:
    """Of a heading: as deep as its number, "2.3.1"; else 1 for the usual main sections, 2 for others."""
    parts = [part for part in re.split(r"[.\s]+", number) if part]
    if parts:
        return min(len(parts), _DEEPEST)
    return 1 if len(title.split()) <= _MAIN_WORDS and _MAIN.search(title) else 2


def _lies_in(span: Span, outer: list[Span]) -> bool:
    return any(other.start <= span.start and span.end <= other.end for other in outer)
