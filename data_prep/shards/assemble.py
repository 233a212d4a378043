"""Makes a shard set of finished shards, or in one call of encoded documents."""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import ConfigError, DataError
from data_prep.files import sha256_file, write_atomically
from data_prep.shards.document_list import merge_documents
from data_prep.shards.encoded import EncodedDocument, in_batches
from data_prep.shards.manifest import (
    DOCUMENTS_FILE,
    INPUTS_FILE,
    TOKENIZER_FOLDER,
    Manifest,
    ShardFile,
)
from data_prep.shards.parquet_file import Footer
from data_prep.shards.parquet_writer import COMPRESSION
from data_prep.shards.schema import ShardFormat
from data_prep.shards.writer import ShardCounts, ShardWriter
from data_prep.tokenizer.encode import Encoder, TokenizerFacts


def shard_format(
    encoder: Encoder | TokenizerFacts,
    *,
    sequence_length: int,
    policy: Literal["best_fit", "concat", "per_document"],
    row_group: int,
    begin_token: bool,
    has_loss_mask: bool = False,
    epochs: int = 1,
) -> ShardFormat:
    """The format of shards in the encoder's vocabulary.

    Raises ConfigError where documents shall begin with a token that the tokenizer does not have.
    """
    if begin_token and encoder.begin_id is None:
        raise ConfigError(
            "pack.begin_token: is true, but the tokenizer has no begin token; set it to false, or "
            "name bos_token in the tokenizer's tokenizer_config.json"
        )
    return ShardFormat(
        sequence_length=sequence_length,
        row_group=row_group,
        policy=policy,
        epochs=epochs,
        vocabulary_size=encoder.vocabulary_size,
        tokenizer_fingerprint=encoder.fingerprint,
        begin_token=begin_token,
        begin_id=encoder.begin_id,
        end_id=encoder.end_id,
        pad_id=encoder.pad_id,
        has_loss_mask=has_loss_mask,
    )


@dataclass(frozen=True)
class Part:
    """A shard to be put into a set: its name there, its two files, its counts, its hash where it is known."""

    name: str  # without .parquet
    shard: Path
    documents: Path
    counts: Mapping[str, int]
    sha256: str | None = None  # of the shard, as its writer took it; none: taken here


def build_shard_set(
    folder: Path,
    documents: Iterable[EncodedDocument],
    form: ShardFormat,
    *,
    window: int,
    source: str,
    split: str,
    tokenizer: Path,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    missing: Sequence[str] = (),
) -> Manifest | None:
    """Pack the documents into a shard set in `folder`, which exists and is empty.

    None, and nothing written, where there are no documents. The folder appears whole only if the
    caller makes it so: run it inside a stage's unit or inside data_prep.files.folder_atomically.
    """
    shard, listed = folder / "shard.parquet", folder / ".shard.documents.parquet"
    with ShardWriter(shard, listed, form, window) as writer:
        for batch in in_batches(documents):
            writer.add_batch(batch)
    if not shard.exists():
        return None
    part = Part("shard", shard, listed, writer.counts.as_json())
    manifest = assemble(
        folder,
        [part],
        form,
        source=source,
        split=split,
        tokenizer=tokenizer,
        settings=settings,
        inputs=inputs,
        missing=missing,
    )
    listed.unlink()
    return manifest


def assemble(
    folder: Path,
    parts: Sequence[Part],
    form: ShardFormat,
    *,
    source: str,
    split: str,
    tokenizer: Path,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    missing: Sequence[str] = (),
    too_short: int = 0,
) -> Manifest:
    """Put shards of one format into `folder` as a set, in the order of their names.

    Files are hard links where the file system allows it, else copies. `tokenizer` is the folder of the
    tokenizer that encoded them, `inputs` the name and content hash of what they were made from,
    `missing` names what should be in the set and is not, `too_short` counts the documents of inputs that gave
    no part.
    """
    files, listed = [], []
    counts = ShardCounts(too_short=too_short)
    rows = 0
    for part in sorted(parts, key=_file_name):
        shard = folder / _file_name(part)
        if shard != part.shard:
            _link(part.shard, shard)
        files.append(_describe(shard, part.sha256))
        listed.append((part.documents, rows))
        rows += files[-1].rows
        counts.add(ShardCounts.of(part.counts))
    # Through names of their own: nothing is ever written into a file that may be a link.
    with write_atomically(folder / DOCUMENTS_FILE) as partial:
        merge_documents(listed, partial)
    table = pa.table({"name": sorted(inputs), "hash": [inputs[name] for name in sorted(inputs)]})
    with write_atomically(folder / INPUTS_FILE) as partial:
        pq.write_table(table, partial, **COMPRESSION)
    manifest = Manifest(
        **form.model_dump(),
        source=source,
        split=split,
        files=files,
        counts=counts.as_json(),
        settings=dict(settings),
        documents_sha256=sha256_file(folder / DOCUMENTS_FILE),
        inputs_sha256=sha256_file(folder / INPUTS_FILE),
        tokenizer=_copy_tokenizer(tokenizer, folder / TOKENIZER_FOLDER),
        missing=sorted(missing),
    )
    manifest.write(folder)
    return manifest


def _file_name(part: Part) -> str:
    """The part's file in a set; a source file may be called what a list of the set is called."""
    name = f"{part.name}.parquet"
    return f"{part.name}__shard.parquet" if name in (DOCUMENTS_FILE, INPUTS_FILE) else name


def _link(origin: Path, target: Path) -> None:
    if target.exists():
        raise DataError(
            f"{origin}: another shard of the set is called {target.name} too; rename one"
        )
    try:
        os.link(origin, target)
    except OSError:
        # Another file system, or one without hard links.
        shutil.copyfile(origin, target)


def _describe(shard: Path, sha256: str | None) -> ShardFile:
    footer = Footer(shard)
    return ShardFile(
        name=shard.name,
        bytes=footer.file_bytes,
        sha256=sha256 or sha256_file(shard),
        footer_sha256=footer.hash,
        rows=footer.metadata().num_rows,
    )


def _copy_tokenizer(origin: Path, target: Path) -> dict[str, str]:
    target.mkdir()
    hashes = {}
    for path in sorted(origin.iterdir()):
        # unit.json is the tokenizer stage's record, not a part of the tokenizer.
        if path.is_file() and path.name != "unit.json":
            shutil.copyfile(path, target / path.name)
            hashes[path.name] = sha256_file(path)
    return hashes
