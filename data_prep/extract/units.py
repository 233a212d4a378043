"""Which units of work the files of a source make."""

import hashlib
import re
from collections.abc import Iterator, Sequence

from data_prep.download.inventory import SUFFIXES, InventoryFile
from data_prep.errors import DataError
from data_prep.source_config import Source
from data_prep.sources.archive import LIST_SUFFIXES, archive_stem, is_archive
from data_prep.units import Unit

_NLM_NAME = re.compile(r"pubmed(\d\d)n(\d+)")
_PART_NAME = re.compile(r"part-(\d+)\.jsonl\.zst")
# Articles are some 100 KB each: a batch is seconds of work, and few enough files for any file system.
BATCH = 500  # on average
LARGEST_BATCH = 2000


def units_of(name: str, source: Source, files: Sequence[InventoryFile]) -> list[Unit]:
    """The units of the source `name`: a file each, but XML articles and pages in batches.

    A batch ends after a name whose hash says so, whatever stands before it: a file that comes or goes
    changes the batch it is in and at most that one's neighbours. The list beside an archive is an input of
    the archive's unit. Raises DataError where two files would make the same unit.
    """
    lists = [file for file in files if file.name.endswith(LIST_SUFFIXES)]
    inputs = sorted((file for file in files if file not in lists), key=lambda file: file.name)
    alone = [file for file in inputs if not _is_batched(file.name, source.format)]
    batched = [file for file in inputs if _is_batched(file.name, source.format)]
    units = [
        _unit(f"{name}/{_sha256(batch[0].name)[:16]}", source.format, batch, ())
        for batch in _batches(batched)
    ]
    named: dict[str, InventoryFile] = {}
    for file in alone:
        stem = _stem(file.name, source.format)
        # PubMed's names are unique in all its folders; others' may only be so with their folder.
        is_pubmed = source.format == "pubmed"
        unit = f"{name}/" + (stem.rpartition("/")[2] if is_pubmed else stem.replace("/", "--"))
        if unit in named:
            raise DataError(
                f"source {name}: {named[unit].path} and {file.path} have the same name; "
                "expected each file once: remove or rename one"
            )
        named[unit] = file
        beside = [listed for listed in lists if archive_stem(listed.name) == stem]
        units.append(_unit(unit, source.format, [file], beside))
    return units


def _is_batched(name: str, format: str) -> bool:
    return format == "html" or (format == "jats" and not is_archive(name))


def _batches(files: Sequence[InventoryFile]) -> Iterator[list[InventoryFile]]:
    batch: list[InventoryFile] = []
    for file in files:
        batch.append(file)
        if int(_sha256(file.name), 16) % BATCH == 0 or len(batch) == LARGEST_BATCH:
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


def part_order(name: str) -> tuple[int, int] | None:
    """(0, 12) from "part-000012.jsonl.zst", the order in which a download wrote its parts; else None."""
    match = _PART_NAME.fullmatch(name.rpartition("/")[2])
    return (0, int(match[1])) if match else None


def _order(name: str, format: str) -> tuple[int, int] | None:
    return {"pubmed": nlm_order, "pmc": part_order}.get(format, lambda name: None)(name)


def _unit(
    name: str, format: str, files: Sequence[InventoryFile], beside: Sequence[InventoryFile]
) -> Unit:
    return Unit(
        name=name,
        inputs={file.name: file.sha256 for file in (*files, *beside)},
        bytes=sum(file.bytes for file in files),
        payload={
            "files": [(file.name, str(file.path)) for file in files],
            "order": _order(files[0].name, format),
        },
    )


def _stem(name: str, format: str) -> str:
    for suffix in sorted(SUFFIXES[format], key=len, reverse=True):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name
