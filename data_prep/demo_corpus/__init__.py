"""A small invented corpus for trying every stage without the network; see README.md beside it."""

import gzip
import hashlib
import shutil
from pathlib import Path

CORPUS = Path(__file__).parent

# Where PubMed's server keeps each file: the yearly baseline, and the daily updates that follow it.
_PUBMED_FOLDERS = {"pubmed26n0001.xml": "baseline", "pubmed26n0002.xml": "updatefiles"}


def unpack(destination: Path) -> None:
    """Write the corpus below `destination` in the layout that the downloaders leave behind.

    PubMed files become `pubmed/{baseline,updatefiles}/NAME.xml.gz`, each with a `.md5` in NLM's
    own format; `pmc/`, `instruct/` and `general/` are copied as they are. Files already there are
    replaced. The same Python gives the same bytes every time: no times or names in the gzip header.
    """
    for name, folder in _PUBMED_FOLDERS.items():
        packed = gzip.compress((CORPUS / "pubmed" / name).read_bytes(), mtime=0)
        target = destination / "pubmed" / folder / f"{name}.gz"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(packed)
        md5 = hashlib.md5(packed, usedforsecurity=False).hexdigest()
        target.with_name(f"{target.name}.md5").write_bytes(f"MD5({target.name})= {md5}\n".encode())
    for folder in ("pmc", "instruct", "general"):
        shutil.copytree(CORPUS / folder, destination / folder, dirs_exist_ok=True)
