"""The stages that turn curated documents into shards, and shards into shard sets."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.config import CorpusConfig
from data_prep.curate.stage import SPLITS
from data_prep.errors import ConfigError, DataError, ProjectError
from data_prep.files import digest
from data_prep.shards.assemble import Part, assemble, shard_format
from data_prep.shards.columns import read_columns
from data_prep.shards.earlier import curated_units, curation_settings, missing_inputs
from data_prep.shards.encoded import EncodedBatch
from data_prep.shards.schema import ShardFormat
from data_prep.shards.writer import ShardWriter
from data_prep.tokenizer.definition import read_definition
from data_prep.tokenizer.encode import (
    EncodedTexts,
    Encoder,
    TokenizerFacts,
    load_encoder,
    tokenizer_facts,
)
from data_prep.units import Stage, Unit, UnitResult, finished, source_of

CHECKED_DOCUMENTS = 64  # of every unit's split, encoded by both encoders


def check_tokenizer(config: CorpusConfig) -> None:
    """Raise ConfigError where the tokenizer that the config names cannot be read or does not suit it.

    The stages would find it too, but hours later.
    """
    if config.tokenizer.extend:
        from data_prep.tokenizer.extend import read_base

        read_base(config.tokenizer.extend)
    path = config.tokenizer.path
    if path is None:
        return
    try:
        encoder = load_encoder(path)
    except ProjectError as error:
        raise ConfigError(f"tokenizer.path: {error}") from error
    _format(encoder, config.pack.model_dump(mode="json"))


class PackStage(Stage):
    """A unit per curated unit: {train,validation}.parquet and .documents.parquet, where not empty.

    Memory: a batch of documents, and what ShardWriter takes.
    """

    name = "pack"
    version = 1

    def __init__(self, config: CorpusConfig):
        self.directory = config.output / "pack"
        self.tokenizers = config.output / "tokenizer"
        self.config = config
        self.settings = config.pack.model_dump(mode="json")

    def units(self) -> list[Unit]:
        curated = curated_units(self.config)
        if not curated:
            return []
        tokenizer = _tokenizer(self.tokenizers)
        # Settings that do not suit the tokenizer are one error here, not one of every unit.
        _format(_facts(tokenizer), self.settings)
        return [self._unit(unit, tokenizer) for unit in curated]

    def _unit(self, curated: UnitResult, tokenizer: UnitResult) -> Unit:
        files = {split: f"{split}.jsonl.zst" for split in SPLITS}
        hashes = {split: curated.files[name]["sha256"] for split, name in files.items()}
        return Unit(
            curated.name,
            inputs=hashes | {"tokenizer": _content(tokenizer)},
            bytes=sum(curated.files[name]["bytes"] for name in files.values()),
            payload={split: str(curated.folder / name) for split, name in files.items()}
            | {"tokenizer": str(tokenizer.folder), "fingerprint": tokenizer.counts["fingerprint"]},
        )

    def prepare(self) -> None:
        super().prepare()
        # Arrow's own allocator keeps 50 MB of what it was given back, and is no faster here.
        pa.set_memory_pool(pa.system_memory_pool())
        tokenizer = _tokenizer(self.tokenizers)
        _encoder(str(tokenizer.folder), _content(tokenizer))

    def run_unit(self, unit: Unit, folder: Path) -> dict[str, Any]:
        encoder = _encoder(unit.payload["tokenizer"], unit.inputs["tokenizer"])
        if encoder.fingerprint != unit.payload["fingerprint"]:
            raise DataError(
                f"{unit.payload['tokenizer']}: encodes otherwise than when it was made (other versions of "
                "libraries?); remove the folder, and run the stage tokenizer again"
            )
        form = _format(encoder, self.settings)
        counts = {}
        for split in SPLITS:
            shard, listed = folder / f"{split}.parquet", folder / f"{split}.documents.parquet"
            with _writer(shard, listed, form, self.settings) as writer:
                for batch in encode_documents(Path(unit.payload[split]), encoder, form):
                    writer.add_batch(batch)
            counts[split] = writer.counts.as_json()
        return counts


class ShardSetStage(Stage):
    """A unit per source and split that has documents: a shard set linked together from packed units."""

    name = "shards"
    version = 1

    def __init__(self, config: CorpusConfig):
        self.directory = config.output / "shards"
        self.output = config.output
        self.config = config
        self.settings = {
            "pack": config.pack.model_dump(mode="json"),
            "curate": curation_settings(config),
        }

    def units(self) -> list[Unit]:
        curated_units(self.config)  # raises where the settings above are not those of the documents
        packed = finished(self.output / "pack")
        units = [
            self._unit(source, split, packed)
            for source in self.config.sources
            for split in SPLITS
            if any(_has_shard(unit, split) for unit in _of_source(packed, source))
        ]
        return sorted(units, key=lambda unit: unit.name)

    def _unit(self, source: str, split: str, packed: list[UnitResult]) -> Unit:
        units = _of_source(packed, source)
        parts = [unit for unit in units if _has_shard(unit, split)]
        emptied = [
            unit
            for unit in units
            if not _has_shard(unit, split) and unit.counts[split]["too_short"]
        ]
        hashes = {unit.name: unit.hash for unit in (*parts, *emptied)}
        tokenizer = _tokenizer(self.output / "tokenizer")
        form = _format(_facts(tokenizer), self.settings["pack"])
        missing = missing_inputs(self.config, source)
        return Unit(
            f"{source}-{split}",
            inputs=hashes
            | {"tokenizer": _content(tokenizer)}
            | {f"missing {name}": "" for name in missing},
            bytes=sum(unit.files[f"{split}.parquet"]["bytes"] for unit in parts),
            payload={
                "source": source,
                "split": split,
                "parts": {
                    unit.name: {
                        "folder": str(unit.folder),
                        "counts": unit.counts[split],
                        "sha256": unit.files[f"{split}.parquet"]["sha256"],
                    }
                    for unit in parts
                },
                "hashes": hashes,
                "too_short": sum(unit.counts[split]["too_short"] for unit in emptied),
                "tokenizer": str(tokenizer.folder),
                "form": form.model_dump(mode="json"),
                "missing": missing,
            },
        )

    def run_unit(self, unit: Unit, folder: Path) -> dict[str, Any]:
        split = unit.payload["split"]
        parts = [
            Part(
                name.partition("/")[2],
                Path(part["folder"]) / f"{split}.parquet",
                Path(part["folder"]) / f"{split}.documents.parquet",
                part["counts"],
                part["sha256"],
            )
            for name, part in unit.payload["parts"].items()
        ]
        manifest = assemble(
            folder,
            parts,
            ShardFormat.model_validate(unit.payload["form"]),
            source=unit.payload["source"],
            split=split,
            tokenizer=Path(unit.payload["tokenizer"]),
            settings=self.settings,
            inputs=unit.payload["hashes"],
            missing=unit.payload["missing"],
            too_short=unit.payload["too_short"],
        )
        return manifest.counts | {"files": len(parts), "missing": len(manifest.missing)}


def encode_documents(path: Path, encoder: Encoder, form: ShardFormat) -> Iterator[EncodedBatch]:
    """The documents of a file with their tokens: begin token where the form says so, text, end token."""
    begin = form.begin_id if form.begin_token else None
    token_type = form.token_type.to_pandas_dtype()
    fast: bool | None = None
    for texts, about in read_columns(path):
        if fast is None:
            fast = encoder.agrees(texts[:CHECKED_DOCUMENTS])
        encoded = with_boundaries(encoder.encode(texts, fast), begin, form.end_id)
        yield EncodedBatch(about, encoded.ids.astype(token_type), encoded.starts)


def with_boundaries(encoded: EncodedTexts, begin: int | None, end: int) -> EncodedTexts:
    """The texts' ids between a begin token, unless that is None, and an end token."""
    before = 0 if begin is None else 1
    count = len(encoded)
    starts = encoded.starts + np.arange(count + 1) * (before + 1)
    ids = np.empty(starts[-1] - starts[0], np.uint32)
    text = np.ones(len(ids), bool)
    text[starts[1:] - 1] = False
    ids[starts[1:] - 1] = end
    if begin is not None:
        text[starts[:-1]] = False
        ids[starts[:-1]] = begin
    ids[text] = encoded.ids
    return EncodedTexts(ids, starts)


def _format(encoder: Encoder | TokenizerFacts, pack: dict[str, Any]) -> ShardFormat:
    return shard_format(
        encoder,
        sequence_length=pack["sequence_length"],
        policy=pack["policy"],
        row_group=pack["row_group"],
        begin_token=pack["begin_token"],
        epochs=pack["epochs"],
    )


def _writer(shard: Path, listed: Path, form: ShardFormat, pack: dict[str, Any]) -> ShardWriter:
    return ShardWriter(
        shard,
        listed,
        form,
        pack["window"],
        min_tokens=pack["min_tokens"],
        shuffle_documents=pack["shuffle_documents"],
        seed=pack["seed"],
    )


def _of_source(units: list[UnitResult], source: str) -> list[UnitResult]:
    return [unit for unit in units if source_of(unit.name) == source]


def _has_shard(unit: UnitResult, split: str) -> bool:
    return f"{split}.parquet" in unit.files


def _tokenizer(directory: Path) -> UnitResult:
    results = finished(directory)
    if not results:
        raise DataError(f"{directory}: no tokenizer yet; run the stage tokenizer first")
    return results[0]


def _facts(tokenizer: UnitResult) -> TokenizerFacts:
    """What the stage tokenizer wrote down; an encoder takes a third of a second and 100 MB to load."""
    return _read_facts(tokenizer.folder, _content(tokenizer), tokenizer.counts["fingerprint"])


@lru_cache(maxsize=1)
def _read_facts(folder: Path, content: str, fingerprint: str) -> TokenizerFacts:
    return tokenizer_facts(read_definition(folder), fingerprint)


def _content(tokenizer: UnitResult) -> str:
    """Hash of the tokenizer's files alone: trained again to the same, it costs nothing."""
    return digest({name: about["sha256"] for name, about in tokenizer.files.items()})


@lru_cache(maxsize=1)
def _encoder(folder: str, content: str) -> Encoder:
    # Loading takes up to a second, and a process packs many units; `content` is there as a key.
    return load_encoder(Path(folder))
