"""Papers of Semantic Scholar's Open Research Corpus: JSON lines with the text and spans of characters that annotate it.

Two layouts of the datasets API (https://api.semanticscholar.org/api-docs/datasets): "s2orc" has the text
and its annotations under `content`, "s2orc_v2" under `body`, the list of references under `bibliography`.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from data_prep.documents import Document, Reject, empty_metadata
from data_prep.source_config import S2orc, Source
from data_prep.sources.identifiers import (
    first_year,
    normalised_doi,
    normalised_pmcid,
    whole_number,
)
from data_prep.sources.licence import named_licence
from data_prep.sources.markup import normalised
from data_prep.sources.records import too_large
from data_prep.sources.s2orc.lines import Bibliography
from data_prep.sources.s2orc.spans import Annotations, BrokenAnnotationsError
from data_prep.sources.s2orc.text import PaperText
from data_prep.sources.text import numbered_lines

_REQUIRED = {
    "pmc": (("pubmedcentral",), "without PMC id"),
    "pmc-or-pubmed": (("pubmedcentral", "pubmed"), "without PMC or PubMed id"),
    "nothing": ((), ""),
}
# "CCBYNCND", as Unpaywall's codes are written here.
_JOINED_LICENCE = re.compile(r"cc(by)(nc)?(sa|nd)?", re.IGNORECASE)


def read_papers(
    path: Path, name: str, source: Source, tally: Counter[str]
) -> Iterator[Document | Reject]:
    """Yield the papers of a file of JSON lines (.jsonl, .gz) that have the ids that `source.s2orc.require` names.

    The text is title, abstract, then headings ("# ", deeper ones "## " …), paragraphs and captions, a blank
    line between; without authors, affiliations, what stands before the abstract, back matter and the
    list of references. `tally` counts papers without the ids. A paper without text, with broken annotations or of
    more than `source.max_article_bytes` gives a Reject;
    raises DataError where the file is cut.
    """
    for number, line in numbered_lines(path, source.max_article_bytes):
        place = f"{name}: line {number}"
        if line is None:
            yield too_large(place, source.max_article_bytes)
            continue
        try:
            record: Any = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield Reject(place, f"not JSON: {error}")
            continue
        if not isinstance(record, Mapping) or not whole_number(str(record.get("corpusid")), 18):
            yield Reject(place, 'no paper: expected an object with a number "corpusid"')
            continue
        ids = _identifiers(record)
        required, lack = _REQUIRED[source.s2orc.require]
        if required and not any(ids.get(kind) for kind in required):
            tally[lack] += 1
            continue
        yield _paper(record, ids, place, source.s2orc, tally)


def _paper(
    record: Mapping[str, Any], ids: dict[str, Any], place: str, options: S2orc, tally: Counter[str]
) -> Document | Reject:
    body = _object(record, "content") or _object(record, "body")
    text = body.get("text")
    if not isinstance(text, str) or not text.strip():
        return Reject(place, "no text: neither content.text nor body.text has any")
    try:
        annotations = Annotations(body.get("annotations"), len(text), tally)
        bibliography = _bibliography(record, text, annotations, tally)
    except BrokenAnnotationsError as error:
        return Reject(place, f"broken annotations: {error}")
    paper = PaperText(text, annotations, bibliography, options.citations)
    if not paper.paragraphs and not paper.abstract:
        return Reject(place, "no paragraphs: no annotation tells what is running text")
    title = _line(record.get("title")) or paper.title
    metadata = _metadata(record, ids)
    metadata["sections"], metadata["abstract"] = paper.sections, bool(paper.abstract)
    return Document(
        id=f"s2orc:{record['corpusid']}",
        text="\n\n".join(filter(None, [title, paper.abstract, *paper.body])),
        source="s2orc",
        metadata=metadata,
    )


def _bibliography(
    record: Mapping[str, Any], text: str, annotations: Annotations, tally: Counter[str]
) -> Bibliography:
    beside = _object(record, "bibliography")
    entries = beside.get("text")
    if not isinstance(entries, str):
        return Bibliography(text, annotations)
    return Bibliography(entries, Annotations(beside.get("annotations") or {}, len(entries), tally))


def _identifiers(record: Mapping[str, Any]) -> dict[str, Any]:
    """Ids by kind, in lower case: "pubmed", "pubmedcentral", "doi"."""
    listed = [
        _object(_object(record, "openaccessinfo"), "externalids"),
        _object(record, "externalids"),
    ]
    return {str(kind).lower(): value for ids in listed for kind, value in ids.items() if value}


def _metadata(record: Mapping[str, Any], ids: dict[str, Any]) -> dict[str, Any]:
    metadata = empty_metadata()
    metadata["kind"] = "full_text"
    metadata["pmid"] = whole_number(str(ids.get("pubmed", "")))
    metadata["pmcid"] = normalised_pmcid(str(ids.get("pubmedcentral", "")))
    metadata["doi"] = normalised_doi(str(ids.get("doi", "")))
    # Where the metadata of the dataset "papers" were joined to the record.
    metadata["year"] = first_year(str(record.get("year") or record.get("publicationdate") or ""))
    journal = _line(_object(record, "journal").get("name")) or _line(record.get("venue"))
    metadata["journal"] = journal or None
    metadata["licence"] = _licence(record)
    return metadata


def _licence(record: Mapping[str, Any]) -> str | None:
    source = _object(_object(record, "content"), "source")
    about = _object(source, "oainfo") or _object(record, "openaccessinfo")
    named = str(about.get("license") or "").strip()
    joined = _JOINED_LICENCE.fullmatch(named)
    if joined:
        return "-".join(["cc", *(part.lower() for part in joined.groups() if part)])
    if named.lower().replace("-", "").replace(" ", "") in ("publicdomain", "pd"):
        return "cc0"
    return named_licence(named)


def _line(value: Any) -> str:
    return normalised(value) if isinstance(value, str) else ""


def _object(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = record.get(key)
    return value if isinstance(value, Mapping) else {}
