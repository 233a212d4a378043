"""Builds records of S2ORC: a text out of pieces, and the spans of the pieces as JSON in strings."""

import json


class PaperBuilder:
    """`add("paragraph", "See ", ("bibref", "[1]", {"ref_id": "b0"}), ".")` appends a piece and annotates it."""

    def __init__(self):
        self.text = "\n"
        self.spans = {}

    def add(self, kind, *pieces, attributes=None):
        start = len(self.text)
        for piece in pieces:
            if isinstance(piece, str):
                self.text += piece
            else:
                inner, words, *about = piece
                self.annotate(inner, len(self.text), len(self.text) + len(words), *about)
                self.text += words
        if kind:
            self.annotate(kind, start, len(self.text), attributes)
        self.text += "\n\n"
        return self

    def annotate(self, kind, start, end, attributes=None):
        span = {"end": end, "start": start}
        if attributes:
            span["attributes"] = attributes
        self.spans.setdefault(kind, []).append(span)

    def annotations(self, **others):
        kinds = {"abstract": None, "formula": None, "table": None}
        return kinds | {kind: json.dumps(spans) for kind, spans in self.spans.items()} | others

    def record(self, number=7, pmid="36589072", pmcid="9798118", licence=None, **others):
        """A record of the dataset "s2orc"; `others` are annotations."""
        ids = {"arxiv": None, "pubmed": pmid, "pubmedcentral": pmcid, "doi": "10.1000/ABC.1"}
        about = licence and {"license": licence, "openaccessurl": "https://x", "status": "GOLD"}
        source = {"pdfurls": None, "pdfsha": "b57a", "oainfo": about}
        content = {"source": source, "text": self.text, "annotations": self.annotations(**others)}
        return {"corpusid": number, "externalids": ids, "content": content}


def paper():
    """A paper as GROBID gives them: front matter, numbered sections, a figure, a table and references."""
    build = PaperBuilder()
    build.add("title", "Aspirin in   mice")
    build.add("author", "Jane Doe")
    build.add("authoraffiliation", "University of Nowhere")
    build.add("paragraph", "Received 1 May; correspondence to j@doe.org")
    build.add("title", "Aspirin in mice")
    build.add("sectionheader", "Abstract")
    build.add("abstract", "We fed aspirin to mice.")
    build.add("sectionheader", "Introduction", attributes={"n": "1"})
    build.add("paragraph", "Aspirin is old ", ("bibref", "[1,", {"ref_id": "b0"}), " ", ("bibref", "2]", {"ref_id": "b1"}), ". ",
              ("bibref", "Smith et al. (2010)", {"ref_id": "b0"}), " used it ", ("bibref", "(Jones, 2011;", {"ref_id": "b9"}), " ", ("bibref", "Roe 2012)"), ".")  # fmt: skip
    build.add("sectionheader", "Methods", attributes={"n": "2"})
    build.add("sectionheader", "Animals", attributes={"n": "2.1."})
    build.add("paragraph", "Mice, see ", ("figureref", "Fig. 1", {"ref_id": "fig_0"}), " and ", ("tableref", "Table 9"), ".")  # fmt: skip
    build.add("formula", "E = mc 2")
    build.add("paragraph", "as always", attributes=None)
    build.add("sectionheader", "Funding")
    build.add("paragraph", "The Foundation paid.")
    build.add("sectionheader", "Conclusions")
    build.add("paragraph", "It works.")
    start = len(build.text)
    build.add("sectionheader", "Fig. 1 .")
    build.add("figurecaption", "Fig. 1: Mice that ran. Scale bar, 1 cm.")
    build.annotate("figure", start, len(build.text), {"id": "fig_0"})
    start = len(build.text)
    build.add(None, "Table 1")
    build.add("figurecaption", "Doses of aspirin")
    build.add("table", "mouse dose\n1 5")
    build.annotate("figure", start, len(build.text), {"id": "tab_0", "type": "table"})
    for number, (name, title) in enumerate([("Smith", "One two three four five six seven eight nine ten eleven twelve thirteen"), ("Kim", "Short")]):  # fmt: skip
        build.add("bibentry", ("bibauthorlastname", name), " A. ", ("bibtitle", title), ". J, 2010.", attributes={"id": f"b{number}"})  # fmt: skip
    return build
