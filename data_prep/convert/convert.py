"""The command `convert`: a shard set to another trainer's format, or from one."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from data_prep.config import Pack
from data_prep.config_file import Section, parse_overrides, validate
from data_prep.convert import mds, megatron
from data_prep.convert.incoming import Incoming
from data_prep.convert.indexed_dataset import IndexedDataset
from data_prep.convert.mds_files import read_index
from data_prep.convert.origin import Origin, check_tokenizer
from data_prep.errors import ConfigError, DataError
from data_prep.files import new_folder, sha256_file
from data_prep.shards.assemble import Part, assemble, shard_format
from data_prep.shards.encoded import EncodedBatch
from data_prep.shards.manifest import DOCUMENTS_FILE
from data_prep.shards.reader import ShardSet
from data_prep.shards.tools.split import window_of
from data_prep.shards.tools.verify import verify
from data_prep.shards.writer import ShardWriter
from data_prep.source_config import SourceName
from data_prep.tokenizer.encode import load_encoder

SHARD, LISTED = "shard.parquet", ".shard.documents.parquet"
PACKING = ("policy", "sequence_length", "window", "row_group", "begin_token")


class Out(Section):
    """Options of a conversion to another format."""

    to: Literal["megatron", "mds"]


class Back(Section):
    """Options of a conversion into a shard set; how it is packed is, unless given, as it was, or Pack's."""

    origin: Literal["megatron", "mds"] = Field(alias="from")
    tokenizer: Path  # folder of the one that encoded the tokens
    source: SourceName | None = None  # None: as it was
    split: SourceName | None = None  # None: as it was, or train
    policy: Literal["best_fit", "concat"] | None = None
    sequence_length: int | None = Field(None, ge=8)
    window: int | None = Field(None, ge=1)
    row_group: int | None = Field(None, ge=64, le=256)
    begin_token: bool | None = None

    def packing(self) -> dict[str, Any]:
        """What is given of how to pack."""
        return {name: value for name in PACKING if (value := getattr(self, name)) is not None}


def convert(place: Path, out: Path, arguments: Sequence[str]) -> str:
    """Convert as the options say; what there is to tell of it, a line. `out` appears whole or not at all.

    Raises ConfigError where the options do not fit, or `out` exists; DataError where the input is broken.
    """
    given = dict(parse_overrides(arguments))
    if ("to" in given) == ("from" in given):
        raise ConfigError("convert: expected one of --to megatron|mds and --from megatron|mds")
    if "to" in given:
        to = validate(Out, given, "convert").to
        return _write(ShardSet(place), out, to)
    options = validate(Back, given, "convert")
    read = _from_megatron if options.origin == "megatron" else _from_mds
    return read(place, out, options)


def _write(shards: ShardSet, out: Path, to: str) -> str:
    if shards.manifest.policy == "per_document":
        raise ConfigError(
            f"convert: {shards.folder} is packed with policy per_document, which keeps windows and not whole "
            "documents; take a set that was packed with best_fit or concat"
        )
    with new_folder(out, "convert") as partial:
        (megatron.write_megatron if to == "megatron" else mds.write_mds)(shards, partial)
    counts = shards.manifest.counts
    return f"{out}: {counts['documents']:,} documents, {counts['tokens']:,} tokens as {to}"


def _from_megatron(place: Path, out: Path, options: Back) -> str:
    prefix = megatron.find_prefix(place)
    dataset = IndexedDataset(prefix)
    listed = megatron.listed_at(prefix)
    origin = Origin(listed) if listed.is_file() else None
    incoming = Incoming(options.tokenizer, f"megatron:{prefix.name}", _source(options, origin))
    batches = megatron.read_megatron(dataset, origin, incoming)
    paths = [dataset.bin, dataset.idx, *([listed] if origin else [])]
    return _pack(out, batches, incoming, origin, options, paths)


def _from_mds(place: Path, out: Path, options: Back) -> str:
    shards = read_index(place)
    columns = mds.columns_of(shards, place)
    listed = place / DOCUMENTS_FILE
    if "documents" in columns:
        return _rows_as_they_are(place, out, options, Origin(listed))
    if "loss_mask" in columns:
        raise DataError(
            f"{place}: has a loss_mask and no column `documents`, so that no document can be cut out; "
            "convert the samples to `messages` or `alpaca` records for the stage instruct"
        )
    incoming = Incoming(options.tokenizer, f"mds:{place.name}", _source(options, None))
    batches = mds.cut_at_end_tokens(shards, columns, incoming)
    return _pack(out, batches, incoming, None, options, [shard.path for shard in shards])


def _pack(
    out: Path,
    batches: Iterator[EncodedBatch],
    incoming: Incoming,
    origin: Origin | None,
    options: Back,
    inputs: Sequence[Path],
) -> str:
    """Pack documents into the set `out`."""
    packing, settings = _packing(origin, options)
    form = shard_format(
        incoming.encoder, **{name: packing[name] for name in PACKING if name != "window"}
    )
    if form.pad_id != (pad := origin.manifest.pad_id if origin else form.pad_id):
        form = form.model_copy(update={"pad_id": pad})
    with new_folder(out, "convert") as partial:
        shard, listed = partial / SHARD, partial / LISTED
        with ShardWriter(shard, listed, form, packing["window"]) as writer:
            for batch in batches:
                if form.begin_token:
                    incoming.check_begins(batch)
                writer.add_batch(batch)
        if not writer.counts.documents:
            raise DataError(f"{incoming.name}: holds no documents")
        manifest = assemble(
            partial,
            [Part("shard", shard, listed, writer.counts.as_json())],
            form,
            source=incoming.source,
            split=_split(options, origin),
            tokenizer=options.tokenizer,
            settings=settings,
            inputs=_hashes(inputs),
            missing=origin.manifest.missing if origin else [],
            too_short=origin.manifest.counts["too_short"] if origin else 0,
        )
        listed.unlink()
    told = f"{out}: {writer.counts.summary()}"
    if incoming.empty:
        told += f"; {incoming.empty:,} empty documents left out"
    if incoming.ended:
        told += f"; {incoming.ended:,} documents given an end token"
    return f"{told}; hash {manifest.hash[:16]}"


def _rows_as_they_are(place: Path, out: Path, options: Back, origin: Origin) -> str:
    """The set of which `convert --to mds` wrote the rows."""
    if options.packing():
        raise ConfigError(
            f"convert: {place} says which documents are in its rows, which stay as they are; leave out "
            f"{', '.join(f'--{name}' for name in options.packing())}"
        )
    check_tokenizer(origin, load_encoder(options.tokenizer).fingerprint, options.tokenizer)
    form = origin.manifest.form
    shards = read_index(place)
    with new_folder(out, "convert") as partial:
        counts = mds.write_rows(shards, mds.columns_of(shards, place), form, partial / SHARD)
        mds.count_documents(origin.path, form, counts)
        manifest = assemble(
            partial,
            [Part("shard", partial / SHARD, origin.path, counts.as_json())],
            form,
            source=_source(options, origin),
            split=_split(options, origin),
            tokenizer=options.tokenizer,
            settings=origin.manifest.settings,
            inputs=_hashes([*(shard.path for shard in shards), origin.path]),
            missing=origin.manifest.missing,
            too_short=origin.manifest.counts["too_short"],
        )
        problems = verify(partial)
        if problems:
            raise DataError(
                f"{place}: its rows are not those of its {DOCUMENTS_FILE} "
                f"({problems[0].replace(f'{partial}', f'{out}')}); convert the set again"
            )
    return f"{out}: {counts.summary()}; hash {manifest.hash[:16]}"


def _packing(origin: Origin | None, options: Back) -> tuple[dict[str, Any], dict[str, Any]]:
    """How to pack, and the settings that the manifest shall tell."""
    packing: dict[str, Any] = Pack().model_dump(mode="json", include=set(PACKING))
    settings: dict[str, Any] = {}
    if origin is not None:
        settings = origin.manifest.settings
        packing |= {name: getattr(origin.manifest, name) for name in PACKING if name != "window"}
        packing["window"] = window_of(origin.manifest)
    packing |= options.packing()
    return packing, settings | {"pack": settings.get("pack", {}) | packing}


def _source(options: Back, origin: Origin | None) -> str:
    source = options.source or (origin.manifest.source if origin else None)
    if source is None:
        raise ConfigError(
            "convert: --source NAME: missing; the input does not say what it came from"
        )
    return source


def _split(options: Back, origin: Origin | None) -> str:
    return options.split or (origin.manifest.split if origin else "train")


def _hashes(paths: Sequence[Path]) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in paths}
