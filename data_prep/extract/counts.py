"""What a unit's extraction gave: totals for the report, and for the gate on its quality."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.documents import Document, Reject
from data_prep.sources.jats.reader import Article

_PERCENTILES = (0, 1, 10, 50, 90)  # a bad extraction shows at the low end
REASONS = 50  # of rejects that are counted by name, and this many letters of each
REASON_CHARACTERS = 80
OTHERS = "others"


class ExtractionCounts:
    """Adds up batches of records; columns of the index are counted where they hold what is asked."""

    def __init__(self) -> None:
        self._totals: Counter[str] = Counter()
        self._languages: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._kept: list[int] = []
        self._in_body: list[int] = []
        self.met: Counter[str] = Counter()  # what readers tally

    def documents(self, batch: Sequence[Document], rows: pa.Table) -> None:
        """Count documents, of which `rows` are the index."""
        self._totals["documents"] += len(batch)
        self._totals["with_title"] += sum(map(has_title, batch))
        for name, column in (("with_abstract", "abstract"), ("retracted", "retracted")):
            self._totals[name] += pc.sum(rows[column]).as_py() or 0
        for name, column in (("with_pmid", "pmid"), ("with_year", "year")):
            self._totals[name] += len(batch) - rows[column].null_count
        self._totals["notices"] += pc.sum(rows["notice"]).as_py() or 0
        self._totals["characters"] += pc.sum(rows["characters"]).as_py()
        for row in pc.value_counts(rows["language"]).to_pylist():
            self._languages[row["values"] or "unknown"] += row["counts"]

    def deletions(self, number: int) -> None:
        self._totals["deletions"] += number

    def reject(self, record: Reject) -> None:
        self._totals["rejects"] += 1
        reason = record.reason.partition(":")[0][:REASON_CHARACTERS]
        known = reason in self._reasons or len(self._reasons) < REASONS
        self._reasons[reason if known else OTHERS] += 1

    def article(self, article: Article) -> None:
        """Count how much of the article's body its document holds, and what was unknown in it."""
        self.met.update({f"unknown tag {tag}": n for tag, n in article.unknown_tags.items()})
        if article.body_characters:
            self._kept.append(article.kept_characters)
            self._in_body.append(article.body_characters)

    def as_json(self) -> dict[str, Any]:
        """Totals; `body` (full texts only): characters kept of the XML's, and that share's percentiles."""
        names = (
            "documents", "deletions", "rejects", "with_title", "with_abstract", "with_pmid",
            "with_year", "retracted", "notices", "characters",
        )  # fmt: skip
        counts: dict[str, Any] = {name: self._totals[name] for name in names} | {
            "languages": dict(sorted(self._languages.items())),
            "reject_reasons": dict(sorted(self._reasons.items())),
            "met": dict(sorted(self.met.items())),
        }
        if self._in_body:
            shares = np.asarray(self._kept) / np.asarray(self._in_body)
            percentiles = np.percentile(shares, _PERCENTILES).round(4).tolist()
            counts["body"] = {
                "articles": len(shares),
                "characters": sum(self._in_body),
                "kept": sum(self._kept),
                "share_percentiles": dict(zip(map(str, _PERCENTILES), percentiles, strict=True)),
            }
        return counts


def has_title(document: Document) -> bool:
    """Whether the text begins with a title: with an abstract, a blank line follows it."""
    text = document["text"]
    return "\n\n" in text if document["metadata"]["abstract"] else bool(text)
