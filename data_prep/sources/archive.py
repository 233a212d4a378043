"""Articles in the bulk archives that PMC gave out until 2026: tar files of XML, read without unpacking them.

Beside an archive lies its list, `NAME.filelist.csv` or `.txt`, with the licence of each article
(https://pmc.ncbi.nlm.nih.gov/tools/ftp/ as it was: "oa_comm_xml.PMC000xxxxxx.baseline.2023-06-17").
"""

import csv
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from data_prep.documents import Reject
from data_prep.errors import DataError
from data_prep.source_config import Source
from data_prep.sources.compressed import UNREADABLE, is_compressed, open_input
from data_prep.sources.identifiers import normalised_pmcid
from data_prep.sources.jats.reader import Article, article_document
from data_prep.sources.records import names_of

SUFFIXES = (".tar.gz", ".tgz", ".tar")
LIST_SUFFIXES = (".filelist.csv", ".filelist.txt")
_ARTICLES = (".nxml", ".xml")
_COMPRESSED = (".gz", ".tgz", ".zst", ".tar", ".zip")
_BLOCK = 512  # bytes of a tar file's block; one of zeros ends it
_REMEMBERED = 4 * tarfile.RECORDSIZE  # tarfile reads records of 20 blocks
_CHUNK = 1 << 20


def is_archive(name: str) -> bool:
    return name.endswith(SUFFIXES)


def archive_stem(name: str) -> str:
    """The name of an archive or of its list without the suffix."""
    suffix = next((end for end in (*SUFFIXES, *LIST_SUFFIXES) if name.endswith(end)), "")
    return name.removesuffix(suffix)


def read_archive(
    path: Path, name: str, source: Source, tally: Counter[str]
) -> Iterator[Article | Reject]:
    """Yield the articles of an archive, one member after another; nothing is ever written to disk.

    A member that is a link, whose path leaves the folder, or that is compressed again gives a Reject. `tally`
    counts "other members" (neither .xml nor .nxml). Raises DataError, after the whole members, where the archive is cut or broken.
    """
    about = _listed(path)
    whole = 0
    try:
        with open_input(path) as stream:
            watched = _Watched(stream)
            with tarfile.open(fileobj=watched, mode="r|") as archive:  # type: ignore[call-overload]
                for member in archive:
                    archive.members = []  # tarfile remembers every member otherwise
                    found = _member(archive, member, name, source, about, tally)
                    if found is not None:
                        yield found
                    whole += member.isfile()
                fault = watched.fault_at(archive.offset)
            watched.read_rest()
    except (*UNREADABLE, tarfile.TarError) as error:  # type: ignore[misc]
        raise _broken(path, whole, str(error) or "it ends too early") from error
    if fault:
        raise _broken(path, whole, fault)


def _broken(path: Path, whole: int, reason: str) -> DataError:
    return DataError(
        f"{path}: broken after {whole} whole members: {reason}; fetch the archive again"
    )


def _member(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    name: str,
    source: Source,
    about: dict[str, dict[str, Any]],
    tally: Counter[str],
) -> Article | Reject | None:
    """The article in a member; None for folders and files of another kind."""
    place = f"{name}/{member.name}"
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        return Reject(place, "unsafe: the member's path leaves the archive's folder")
    if member.issym() or member.islnk():
        return Reject(place, f"unsafe: the member is a link to {member.linkname}")
    if not member.isfile():
        return None
    if member.name.endswith(_COMPRESSED):
        return Reject(place, "compressed twice: the member is an archive itself; unpack it first")
    if not member.name.endswith(_ARTICLES):
        tally["other members"] += 1
        return None
    limit = source.max_article_bytes
    if member.size > limit:
        return Reject(place, f"too large: {member.size} bytes, max_article_bytes is {limit}")
    xml = archive.extractfile(member).read()  # type: ignore[union-attr]
    if is_compressed(xml):
        return Reject(place, "compressed twice: the member is compressed itself; unpack it first")
    known = about.get(path.stem.partition(".")[0].upper())
    return article_document(xml, place, source.jats, limit, known, tally)


def _listed(path: Path) -> dict[str, dict[str, Any]]:
    """What the list beside an archive says, by PMCID, in the words of PMC's metadata JSON."""
    for suffix in LIST_SUFFIXES:
        beside = path.with_name(archive_stem(path.name) + suffix)
        if beside.is_file():
            return dict(_rows(beside))
    return {}


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    delimiter = "\t" if path.suffix == ".txt" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream, delimiter=delimiter)
            # "AccessionID" and "Accession ID", "License" and "LICENSE", as the years had it.
            columns = ["".join(filter(str.isalpha, key)).lower() for key in rows.fieldnames or []]
            if "accessionid" not in columns:
                raise DataError(
                    f"{path}: no column AccessionID; the columns are {names_of(columns)}: "
                    "fetch the list again or remove it"
                )
            for row in rows:
                cells = dict(zip(columns, row.values(), strict=False))
                pmcid = normalised_pmcid(cells.get("accessionid") or "")
                if pmcid:
                    yield (
                        pmcid,
                        {
                            "pmcid": pmcid,
                            "pmid": cells.get("pmid"),
                            "license_code": cells.get("license"),
                            "is_retracted": cells.get("retracted"),
                        },
                    )
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: not readable as a list of articles: {error}; fetch it again"
        ) from error


class _Watched:
    """A stream whose last bytes are remembered, to see what an archive ended with.

    tarfile itself takes an archive that is cut between two members, or has rubbish there, for a whole one.
    """

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self._tail = b""
        self._end = 0

    def read(self, size: int) -> bytes:
        chunk = self._stream.read(size)
        self._tail = (self._tail + chunk)[-_REMEMBERED:]
        self._end += len(chunk)
        return chunk

    def fault_at(self, offset: int) -> str | None:
        """Why the block at this place is not the mark that ends an archive; None where it is."""
        place = offset - (self._end - len(self._tail))
        block = self._tail[place : place + _BLOCK]
        if len(block) < _BLOCK:
            return "it ends before its end mark"
        return f"no member begins at byte {offset}, where one should" if any(block) else None

    def read_rest(self) -> None:
        """Read to the end, where the compressed stream's checksum is."""
        while self.read(_CHUNK):
            pass
