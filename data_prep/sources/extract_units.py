"""Which units of work the files of a source make."""

import re
from collections.abc import Sequence

from data_prep.errors import DataError
from data_prep.sources.inventory import SUFFIXES, InventoryFile
from data_prep.units import Unit

_NLM_NAME = re.compile(r"pubmed(\d\d)n(\d+)")
# Articles are some 100 KB each: a batch is seconds of work, and few enough files for any file system.
JATS_BATCH = 500


def units_of(source: str, format: str, files: Sequence[InventoryFile]) -> list[Unit]:
    """The units of one source: a PubMed or text file each, JATS files in batches.

    Raises DataError where two files would make the same unit.
    """
    if format == "jats":
        ordered = sorted(files, key=lambda file: file.name)
        starts = range(0, len(ordered), JATS_BATCH)
        return [
            _unit(f"{source}/{number:05d}", format, ordered[start : start + JATS_BATCH])
            for number, start in enumerate(starts)
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
