"""Reads the parts that the download of PMC's bucket writes (download/pmc/writer.py)."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.documents import Deletion, Reject, read_json_lines
from data_prep.errors import DataError
from data_prep.source_config import Source
from data_prep.sources.identifiers import normalised_pmcid, pmcid_version
from data_prep.sources.jats.reader import Article, article_document


def read_part(
    path: Path, name: str, source: Source, tally: Counter[str]
) -> Iterator[Article | Deletion | Reject]:
    """The articles of a part and the withdrawals of earlier ones, in its order.

    Raises DataError where the part is cut or a line is not what the download writes.
    """
    for number, record in enumerate(read_json_lines(path), start=1):
        key = str(record.get("key")) if isinstance(record, dict) else ""
        pmcid = normalised_pmcid(key)
        if pmcid is None or not _is_whole(record):
            raise DataError(
                f"{path}: line {number}: not an article; expected key, about and xml, as the stage download writes "
                "them: fetch the part again"
            )
        if record.get("withdrawn"):
            yield Deletion(None, pmcid_version(key) or 1, pmcid)
        elif "broken" in record:
            yield Reject(f"{name}#{key}", record["broken"])
        else:
            yield article_document(
                record["xml"].encode(),
                key,
                source.jats,
                source.max_article_bytes,
                record.get("about"),
                tally,
            )


def _is_whole(record: dict[str, Any]) -> bool:
    """Whether the fields of a line are of the types that the download writes."""
    if record.get("withdrawn"):
        return True
    content = record.get("broken", record.get("xml"))
    return isinstance(content, str) and isinstance(record.get("about") or {}, dict)
