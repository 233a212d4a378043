"""Makes one shard set of several, without decoding a row: links to their files, and one list of documents."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.config_file import Section
from data_prep.errors import ConfigError, DataError
from data_prep.files import new_folder
from data_prep.progress import Ended, follow
from data_prep.shards.assemble import Part, assemble
from data_prep.shards.document_list import DuplicateDocumentError
from data_prep.shards.manifest import DOCUMENTS_FILE, INPUTS_FILE, Manifest
from data_prep.shards.reader import ShardSet
from data_prep.shards.schema import DOCUMENTS
from data_prep.shards.storage import RESTORE
from data_prep.source_config import SourceName


class MergeOptions(Section):
    source: SourceName | None = None  # of the merged set; needed where the sets' sources differ


def merge(folders: Sequence[Path], out: Path, source: str | None = None) -> Manifest:
    """Make the set `out` of two or more sets of one format, split and source, in this order.

    `source` is its source's name, needed where theirs differ. Shards are hard links where the file
    system allows it, else copies, with the number of their set before their name; their order of rows stays.
    Memory is bounded. The set appears whole or not at all. Raises ConfigError where there is nothing to
    merge or `out` exists, DataError naming set and field where two sets do not belong together, a document
    is in two of them, or a file was changed.
    """
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise ConfigError(f"merge: {len(folders)} sets given; expected two or more different ones")
    sets = [ShardSet(folder) for folder in folders]
    manifests = [shards.manifest for shards in sets]
    _check_alike(folders, manifests, source)
    with (
        tempfile.TemporaryDirectory(prefix="merge") as scratch,
        new_folder(out, "merge") as partial,
        follow(f"merge {out.name}", _size(manifests), lambda: _linked(partial)),
    ):
        try:
            merged = assemble(
                partial,
                _parts(sets, Path(scratch)),
                manifests[0].form,
                source=source or manifests[0].source,
                split=manifests[0].split,
                tokenizer=sets[0].checked_tokenizer(),
                settings=_settings(manifests),
                inputs=_inputs(sets),
                missing=sorted({name for manifest in manifests for name in manifest.missing}),
            )
        except DuplicateDocumentError as error:
            both = " and ".join(map(str, _holding(error.identifier, sets)))
            raise DataError(
                f"merge: document {error.identifier!r} is in {both}; leave one of the sets out"
            ) from error
        _check_unchanged(folders, manifests, merged)
    return merged


def _size(manifests: Sequence[Manifest]) -> Ended:
    files = [file for manifest in manifests for file in manifest.files]
    return len(files), sum(file.bytes for file in files)


def _linked(folder: Path) -> Ended:
    """How far assembling is, which reads each file after it has linked it."""
    sizes = [path.stat().st_size for path in folder.glob("[0-9]*.parquet")]
    return len(sizes), sum(sizes)


def _check_alike(
    folders: Sequence[Path], manifests: Sequence[Manifest], source: str | None
) -> None:
    first = manifests[0]
    fields = [*first.form.model_dump(), "split", *([] if source else ["source"])]
    for folder, manifest in zip(folders, manifests, strict=True):
        for name in fields:
            ours, theirs = getattr(first, name), getattr(manifest, name)
            if ours != theirs:
                advice = "; name one with --source" if name == "source" else ""
                raise DataError(
                    f"merge: {folder}: {name} is {theirs}, that of {folders[0]} is {ours}{advice}"
                )


def _parts(sets: Sequence[ShardSet], scratch: Path) -> list[Part]:
    """Every file of every set; the first of a set comes with the list of them all, the others with none."""
    nothing = scratch / "none.parquet"
    pq.write_table(DOCUMENTS.empty_table(), nothing)
    parts = []
    for number, shards in enumerate(sets, 1):
        folder, manifest, documents = shards.folder, shards.manifest, shards.checked(DOCUMENTS_FILE)
        # Sorted by name, as assemble does, files shall stay in the order in which the list counts rows.
        names = [f"{number:03d}-{file.name.removesuffix('.parquet')}" for file in manifest.files]
        if names != sorted(names, key=lambda name: f"{name}.parquet"):
            raise DataError(
                f"merge: {folder}: its files are not in the order of their names; build it again"
            )
        for place, (name, file) in enumerate(zip(names, manifest.files, strict=True)):
            listed = nothing if place else documents
            counts = dict.fromkeys(manifest.counts, 0) if place else manifest.counts
            parts.append(Part(name, folder / file.name, listed, counts))
    return parts


def _settings(manifests: Sequence[Manifest]) -> dict[str, Any]:
    """Those of the sets where they are the same, else each set's under its number."""
    settings = [manifest.settings for manifest in manifests]
    if all(other == settings[0] for other in settings):
        return settings[0]
    return {f"{number:03d}": values for number, values in enumerate(settings, 1)}


def _inputs(sets: Sequence[ShardSet]) -> dict[str, str]:
    """Content hash by name, with the set's number before a name that another set has for other content."""
    united: dict[str, str] = {}
    for number, shards in enumerate(sets, 1):
        for line in pq.read_table(shards.checked(INPUTS_FILE)).to_pylist():
            name, content = line["name"], line["hash"]
            if united.setdefault(name, content) != content:
                united[f"{number:03d}-{name}"] = content
    return united


def _holding(identifier: str, sets: Sequence[ShardSet]) -> list[Path]:
    """The sets that list the document."""
    wanted = pc.field("id") == identifier
    return [shards.folder for shards in sets if shards.listed(wanted, ["id"]).num_rows]


def _check_unchanged(
    folders: Sequence[Path], manifests: Sequence[Manifest], merged: Manifest
) -> None:
    """Whether what was linked is what the sets' manifests name."""
    origins = [
        (folder / file.name, file.sha256)
        for folder, manifest in zip(folders, manifests, strict=True)
        for file in manifest.files
    ]
    for (path, expected), file in zip(origins, merged.files, strict=True):
        if file.sha256 != expected:
            raise DataError(
                f"{path}: sha256 is {file.sha256}, the manifest says {expected}; {RESTORE}"
            )
