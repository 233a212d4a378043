"""Reads the parts that the download of PMC's bucket writes (pmc_writer.py)."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

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
        if pmcid is None or not ({"xml", "broken", "withdrawn"} & record.keys()):
            raise DataError(
                f"{path}: line {number}: not an article; expected key and xml, as the stage download writes them"
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
