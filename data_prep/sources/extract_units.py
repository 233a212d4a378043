"""Which units of work the files of a source make."""

import hashlib
import re
from collections.abc import Iterator, Sequence

from data_prep.errors import DataError
from data_prep.sources.inventory import SUFFIXES, InventoryFile
from data_prep.units import Unit

_NLM_NAME = re.compile(r"pubmed(\d\d)n(\d+)")
# Articles are some 100 KB each: a batch is seconds of work, and few enough files for any file system.
JATS_BATCH = 500  # on average
LARGEST_JATS_BATCH = 2000


def units_of(source: str, format: str, files: Sequence[InventoryFile]) -> list[Unit]:
    """The units of one source: a PubMed or text file each, JATS files in batches.

    A batch ends after a name whose hash says so, whatever stands before it: a file that comes or goes
    changes the batch it is in and at most that one's neighbours. Raises DataError where two files would make the same unit.
    """
    if format == "jats":
        return [
            _unit(f"{source}/{_sha256(batch[0].name)[:16]}", format, batch)
            for batch in _batches(sorted(files, key=lambda file: file.name))
        ]
    named: dict[str, InventoryFile] = {}
    for file in files:
        stem = _stem(file.name, format)
        # PubMed's names are unique in all its folders; others' may only be so with their folder.
        name = f"{source}/" + (
            stem.rpartition("/")[2] if format == "pubmed" else stem.replace("/", "--")
        )
        if name in named:
            raise DataError(
                f"source {source}: {named[name].path} and {file.path} have the same name; "
                "expected each file once: remove or rename one"
            )
        named[name] = file
    return [_unit(name, format, [file]) for name, file in named.items()]


def _batches(files: Sequence[InventoryFile]) -> Iterator[list[InventoryFile]]:
    batch: list[InventoryFile] = []
    for file in files:
        batch.append(file)
        if int(_sha256(file.name), 16) % JATS_BATCH == 0 or len(batch) == LARGEST_JATS_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _sha256(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def nlm_order(name: str) -> tuple[int, int] | None:
    """(2026, 1334) from ".../pubmed26n1334.xml.gz", the order in which NLM's files apply; else None."""
    match = _NLM_NAME.match(name.rpartition("/")[2])
    return (2000 + int(match[1]), int(match[2])) if match else None


def _unit(name: str, format: str, files: Sequence[InventoryFile]) -> Unit:
    return Unit(
        name=name,
        inputs={file.name: file.sha256 for file in files},
        bytes=sum(file.bytes for file in files),
        payload={
            "format": format,
            "files": [(file.name, str(file.path)) for file in files],
            "order": nlm_order(files[0].name) if format == "pubmed" else None,
        },
    )


def _stem(name: str, format: str) -> str:
    for suffix in sorted(SUFFIXES[format], key=len, reverse=True):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name
