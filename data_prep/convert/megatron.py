"""A shard set as Megatron's indexed dataset, and back: a sequence for every document, as it stands.

Its begin and end tokens are in it. OUT/NAME.bin and NAME.idx are what Megatron takes (--data-path OUT/NAME);
NAME.documents.parquet beside them keeps ids, licences and the rest, document by document in their order.
Padding, cuts and the fill of rows stay behind: Megatron cuts sequences anew.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from data_prep.convert.incoming import Incoming
from data_prep.convert.indexed_dataset import IndexedDataset, IndexedDatasetWriter
from data_prep.convert.origin import Origin, OriginWriter, check_tokenizer
from data_prep.errors import ConfigError, DataError
from data_prep.progress import followed
from data_prep.shards.encoded import ABOUT, EncodedBatch
from data_prep.shards.reader import ShardSet
from data_prep.shards.unpack import documents_of

LISTED = pa.schema([*ABOUT, pa.field("tokens", pa.int64(), nullable=False)])


def write_megatron(shards: ShardSet, folder: Path) -> None:
    """Write the set into `folder`, which exists; raises ConfigError for a set with a loss mask."""
    manifest = shards.manifest
    if manifest.has_loss_mask:
        raise ConfigError(
            f"--to megatron: {shards.folder} has a loss mask, for which an indexed dataset has no place; "
            "use --to mds, which keeps it"
        )
    prefix = folder / f"{manifest.source}-{manifest.split}"
    documents = manifest.counts["documents"]
    size = manifest.token_type.bit_width // 8
    total = (len(shards.row_groups), manifest.counts["tokens"] * size)
    with (
        IndexedDatasetWriter(prefix, documents, manifest.vocabulary_size) as dataset,
        OriginWriter(listed_at(prefix), LISTED, manifest) as listed,
    ):
        batches = documents_of(shards, folder)
        for batch in followed("convert", batches, total, lambda batch: batch.tokens.nbytes):
            dataset.add(batch.tokens, batch.lengths)
            listed.write(batch.about.append_column("tokens", pa.array(batch.lengths)))


def listed_at(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.documents.parquet")


def find_prefix(path: Path) -> Path:
    """The path without .bin and .idx, from that, from one of the two files, or from their folder."""
    if path.suffix in (".bin", ".idx"):
        return path.with_suffix("")
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.idx"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise DataError(
            f"{path}: expected one .idx file in it, found {names}; name the one you mean"
        )
    return found[0].with_suffix("")


def read_megatron(
    dataset: IndexedDataset, origin: Origin | None, incoming: Incoming
) -> Iterator[EncodedBatch]:
    """The documents of a dataset, from where it came from if that is known."""
    if origin is not None:
        check_tokenizer(origin, incoming.encoder.fingerprint, incoming.tokenizer)
        if len(origin) != len(dataset):
            raise _disagrees(origin, dataset)
    batches = dataset.read()
    total = (len(dataset), dataset.bytes)
    for tokens, starts in followed("convert", batches, total, lambda batch: batch[0].nbytes):
        incoming.check(tokens)
        if origin is None:
            yield incoming.batch(tokens, starts)
            continue
        about = origin.take(len(starts) - 1)
        if not (about["tokens"].to_numpy() == starts[1:] - starts[:-1]).all():
            raise _disagrees(origin, dataset)
        yield EncodedBatch(about.select(ABOUT.names).cast(ABOUT), tokens, starts)


def _disagrees(origin: Origin, dataset: IndexedDataset) -> DataError:
    return DataError(
        f"{origin.path}: lists other documents than {dataset.idx.name}; restore the one that was changed, or "
        "move the list away: then ids are made anew"
    )
