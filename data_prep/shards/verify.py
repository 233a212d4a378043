"""Checks a shard set as thoroughly as it can be checked: every hash, every row, every document."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.errors import ProjectError
from data_prep.files import sha256_file
from data_prep.shards.manifest import DOCUMENTS_FILE, INPUTS_FILE, TOKENIZER_FOLDER, Manifest
from data_prep.shards.reader import ADVICE, RowGroup, ShardSet
from data_prep.tokenizer.encode import load_encoder


def verify(folder: Path) -> list[str]:
    """What is wrong with the set, one line each; empty where everything holds.

    Memory: the list of all pieces of documents, about 50 bytes each.
    """
    try:
        shards = ShardSet(folder)
    except ProjectError as error:
        return [str(error)]
    problems = list(_changed_files(folder, shards.manifest))
    if problems:
        return problems
    try:
        return [*_tokenizer_problems(folder, shards.manifest), *_content_problems(shards)]
    except ProjectError as error:
        return [str(error)]


def _changed_files(folder: Path, manifest: Manifest) -> Iterator[str]:
    hashes = {file.name: file.sha256 for file in manifest.files}
    hashes |= {DOCUMENTS_FILE: manifest.documents_sha256, INPUTS_FILE: manifest.inputs_sha256}
    hashes |= {f"{TOKENIZER_FOLDER}/{name}": value for name, value in manifest.tokenizer.items()}
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file():
            yield f"{path}: missing; {ADVICE}"
        elif (found := sha256_file(path)) != expected:
            yield f"{path}: sha256 is {found}, the manifest says {expected}; {ADVICE}"


def _tokenizer_problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    found = load_encoder(folder / TOKENIZER_FOLDER).fingerprint
    if found != manifest.tokenizer_fingerprint:
        yield (
            f"{folder / TOKENIZER_FOLDER}: the tokenizer's fingerprint is {found}, the shards were "
            f"encoded by {manifest.tokenizer_fingerprint}; pack them again"
        )


def _content_problems(shards: ShardSet) -> Iterator[str]:
    manifest = shards.manifest
    pieces = []
    counts = {"rows": 0, "tokens": 0, "padding": 0}
    for group, rows in enumerate(shards.row_groups.tolist()):
        path, number = shards.place(group)
        content = shards.read(group)
        for problem in _row_group_problems(content, rows, manifest):
            yield f"{path}: row group {number}: {problem}; the set was built wrongly: report it"
        filled = int(content.lengths.sum())
        counts["tokens"] += filled
        counts["padding"] += content.tokens.size - filled
        row = counts["rows"] + np.repeat(np.arange(len(content.tokens)), np.diff(content.starts))
        ids = [name for names in shards.document_ids(group) for name in names]
        pieces.append(
            pa.table({"id": ids, "offset": content.offsets, "length": content.lengths, "row": row})
        )
        counts["rows"] += len(content.tokens)
    for name, found in counts.items():
        if found != manifest.counts[name]:
            yield f"{shards.folder}: {found} {name}, the manifest says {manifest.counts[name]}"
    yield from _document_problems(shards, pa.concat_tables(pieces))


def _row_group_problems(content: RowGroup, rows: int, manifest: Manifest) -> Iterator[str]:
    if content.tokens.shape != (rows, manifest.sequence_length):
        yield f"tokens are {content.tokens.shape}, expected {(rows, manifest.sequence_length)}"
        return
    if int(content.tokens.max()) >= manifest.vocabulary_size:
        yield f"token id {content.tokens.max()} in a vocabulary of {manifest.vocabulary_size}"
    filled = np.add.reduceat(content.lengths.astype(np.int64), content.starts[:-1])
    if (np.diff(content.starts) < 1).any() or (filled > manifest.sequence_length).any():
        yield "a row holds no piece of a document, or more than fits"
        return
    padding = np.arange(manifest.sequence_length) >= filled[:, None]
    if (content.tokens[padding] != manifest.pad_id).any():
        yield "padding is not filled with the pad id"
    if content.loss_mask is not None and content.loss_mask[padding].any():
        yield "padding is marked as trained on"


def _document_problems(shards: ShardSet, pieces: pa.Table) -> Iterator[str]:
    """Whether the pieces of every document are its tokens once each, in the rows that are listed."""
    documents = shards.documents()
    pieces = pieces.sort_by([("id", "ascending"), ("offset", "ascending")])
    ids = pieces["id"].combine_chunks().dictionary_encode()
    codes = ids.indices.to_numpy()
    begins = np.flatnonzero(np.append(True, np.diff(codes) != 0))
    offsets, lengths = (pieces[name].to_numpy().astype(np.int64) for name in ("offset", "length"))
    ends = offsets + lengths
    expected = np.append(0, ends[:-1])
    expected[begins] = 0
    for place in np.flatnonzero(offsets != expected)[:1].tolist():
        name = ids[place].as_py()
        yield f"{shards.folder}: document {name}: tokens from {expected[place]} on are lost or doubled"
    if not ids.dictionary.equals(documents["id"].combine_chunks()):
        yield f"{shards.folder}: {DOCUMENTS_FILE} lists other documents than the rows hold"
        return
    totals = np.add.reduceat(lengths, begins)
    for place in np.flatnonzero(totals != documents["tokens"].to_numpy())[:1].tolist():
        yield f"{shards.folder}: document {ids.dictionary[place]}: its tokens are not all there"
    rows = pc.list_flatten(documents["rows"])
    by_document = pieces.append_column("code", pa.array(codes))
    by_document = by_document.sort_by([("code", "ascending"), ("row", "ascending")])
    if not np.array_equal(rows.to_numpy(), by_document["row"].to_numpy()):
        yield f"{shards.folder}: {DOCUMENTS_FILE} lists other rows than the documents are in"
