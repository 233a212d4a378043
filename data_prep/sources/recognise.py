"""Tells PubMed XML from JATS by a file's first bytes, for folders that hold either."""

import gzip
import re
from pathlib import Path

HEAD_BYTES = 1 << 16  # XML declaration, DOCTYPE and comments before the root element
ROOTS = {
    "pubmed": re.compile(rb"<(?:PubmedArticleSet|PubmedBookArticleSet)[\s>]"),
    "pmc": re.compile(rb"<(?:\w+:)?(?:article|pmc-articleset|OAI-PMH)[\s>]"),
}


def sort_by_format(folder: Path) -> dict[str, list[Path]]:
    """{"pubmed": files, "pmc": files} of the XML files below `folder`; kinds without a file are absent.

    A checksum file (".md5") goes with the file that it is beside.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name.lower().endswith((".xml", ".nxml", ".xml.gz")):
            checksum = path.with_name(path.name + ".md5")
            if kind := _kind(path):
                files = found.setdefault(kind, [])
                files += [path, checksum] if checksum.is_file() else [path]
    return found


def _kind(path: Path) -> str | None:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as stream:
        try:
            head = stream.read(HEAD_BYTES)
        except (OSError, EOFError):
            # Broken gzip is the reader's to report, with its file's name; PubMed is what comes gzipped.
            return "pubmed"
    return next((kind for kind, root in ROOTS.items() if root.search(head)), None)
