"""Checks a shard set as thoroughly as it can be checked: every hash, every row, every document.

First the files, then the list of documents and the row groups, each in as many processes as wanted.
Memory of each: some row groups or a row group of documents.parquet, and constant sums (checks/document_sums.py).
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow.parquet as pq
from pydantic import Field

from data_prep.config_file import Section
from data_prep.errors import ProjectError
from data_prep.parallel import parallel
from data_prep.shards.checks.content import (
    Found,
    check_list,
    check_rows,
    documents_in,
    open_set,
    pieces_in,
    write_lengths,
)
from data_prep.shards.checks.documents import Held, Piece, differences
from data_prep.shards.checks.files import (
    REPORT,
    document_list_problem,
    hash_problem,
    shard_problem,
)
from data_prep.shards.manifest import DOCUMENTS_FILE, TOKENIZER_FOLDER, Manifest
from data_prep.shards.reader import ShardSet
from data_prep.shards.storage import Place, local_folder, storage_of

Result = TypeVar("Result")
SHOWN = 20  # problems of a set; where there are more, they have one cause
GROUPS_A_TASK = 32  # row groups; of 256 rows each some hundredths of a second
LOOKED_UP = 4  # ranges of ids in which the sums differ: some 10^5 documents of 10^9


class VerifyOptions(Section):
    workers: int | None = Field(None, ge=1)  # processes; none: as many as cores


def verify(place: Place, workers: int = 1) -> list[str]:
    """What is wrong with the set, one line each, SHOWN at most; empty where everything holds."""
    folder = local_folder(storage_of(place))  # a wrong address is no problem of a set
    try:
        problems = _problems(folder, workers)
        shown = list(islice(problems, SHOWN))
        more = sum(1 for _ in problems)
    except ProjectError as error:
        return [str(error)]
    return [*shown, f"{folder}: and {more} other problems"] if more else shown


def _problems(folder: Path, workers: int) -> Iterator[str]:
    open_set.cache_clear()  # it may have changed since it was last verified
    shards = ShardSet(folder)
    changed = list(_file_problems(folder, shards.manifest, workers))
    yield from changed
    if changed:  # what is in them would only say so again
        return
    yield from _tokenizer_problems(folder, shards.manifest)
    with tempfile.TemporaryDirectory(prefix="verify") as scratch:
        lengths = None
        if shards.manifest.policy == "per_document":
            lengths = Path(scratch) / "lengths"
            write_lengths(folder, lengths)
        found = _content(folder, shards, lengths, workers)
    yield from found.problems
    if found.problems:  # neither counts nor documents can be as they should
        return
    for name, number in found.counts.as_json().items():
        expected = shards.manifest.counts.get(name)
        if number != expected and name != "too_short":  # of which nothing is in the set
            yield f"{folder}: {number} {name}, the manifest says {expected}; {REPORT}"
    buckets = np.flatnonzero(found.sums)
    if len(buckets):
        yield from _differences(folder, shards, buckets[:LOOKED_UP], workers)
        if len(buckets) > LOOKED_UP:
            yield f"{folder}: other documents differ as well; {REPORT}"


def _file_problems(folder: Path, manifest: Manifest, workers: int) -> Iterator[str]:
    form, shards = manifest.form, {file.name: file for file in manifest.files}
    tasks: list[tuple[Callable[[], str | None], int]] = []
    for name, expected in manifest.hashes.items():
        path = folder / name
        if name in shards:
            tasks.append((partial(shard_problem, path, shards[name], form), shards[name].bytes))
        else:
            size = path.stat().st_size if path.is_file() else 0
            check = document_list_problem if name == DOCUMENTS_FILE else hash_problem
            tasks.append((partial(check, path, expected), size))
    for problem in _each(f"verify {folder.name}: files", tasks, workers):
        if problem:
            yield problem


def _tokenizer_problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    from data_prep.tokenizer.encode import load_encoder  # slow to import, and workers need it not

    found = load_encoder(folder / TOKENIZER_FOLDER).fingerprint
    if found != manifest.tokenizer_fingerprint:
        yield (
            f"{folder / TOKENIZER_FOLDER}: the tokenizer's fingerprint is {found}, the shards were "
            f"encoded by {manifest.tokenizer_fingerprint}; pack them again"
        )


def _content(folder: Path, shards: ShardSet, lengths: Path | None, workers: int) -> Found:
    """What the list of documents and all row groups hold; `lengths` is what write_lengths wrote."""
    metadata = pq.read_metadata(folder / DOCUMENTS_FILE)
    tasks: list[tuple[Callable[[], Found], int]] = [
        (partial(check_list, folder, stretch), metadata.row_group(stretch).total_byte_size)
        for stretch in range(metadata.num_row_groups)
    ]
    for groups, size in _stretches(shards):
        tasks.append((partial(check_rows, folder, groups, lengths), size))
    whole = Found()
    for found in _each(f"verify {folder.name}: content", tasks, workers):
        whole.add(found)
    for (_, before), (after, _) in pairwise(whole.ids[stretch] for stretch in sorted(whole.ids)):
        if before.encode() >= after.encode():
            whole.problems.append(
                f"{folder / DOCUMENTS_FILE}: not sorted by id: {after} follows {before}; {REPORT}"
            )
    return whole


def _differences(
    folder: Path, shards: ShardSet, buckets: np.ndarray, workers: int
) -> Iterator[str]:
    """Reads list and rows again for the documents in these buckets, and says of which they differ."""
    documents = documents_in(folder, buckets)
    tasks: list[tuple[Callable[[], list[tuple[str, Piece]]], int]] = [
        (partial(pieces_in, folder, groups, buckets), size) for groups, size in _stretches(shards)
    ]
    for found in _each(f"verify {folder.name}: documents", tasks, workers):
        for name, piece in found:
            documents.setdefault(name, Held()).pieces.append(piece)
    for problem in differences(documents, shards.manifest):
        yield f"{folder}: {problem}; {REPORT}"


def _stretches(shards: ShardSet) -> list[tuple[range, int]]:
    """All row groups, some at a time, with about as many bytes as they have."""
    groups = len(shards.row_groups)
    size = sum(file.bytes for file in shards.manifest.files) // max(groups, 1)
    ranges = [
        range(begin, min(begin + GROUPS_A_TASK, groups))
        for begin in range(0, groups, GROUPS_A_TASK)
    ]
    return [(stretch, size * len(stretch)) for stretch in ranges]


def _each(
    title: str, tasks: list[tuple[Callable[[], Result], int]], workers: int
) -> Iterator[Result]:
    return parallel(title, _call, tasks, workers)


def _call(task: Callable[[], Result]) -> Result:
    return task()
