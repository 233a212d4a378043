"""Splits a shard set into several, whole documents by their articles' keys, each packed anew.

Which part a document goes to follows from its article's key (PMID, else DOI, else PMCID, else id) alone: an
abstract and its full text go to parts of one name whatever set they are in, and stay there as the corpus
grows. The draw is another one than that between train and validation, and than that of an earlier split
of the same set, so that the shares come out right on what is a part already.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep.config_file import Section
from data_prep.curate.filters import drawn
from data_prep.documents import article_key
from data_prep.errors import ConfigError, DataError
from data_prep.files import new_folder
from data_prep.progress import followed
from data_prep.shards.assemble import Part, assemble
from data_prep.shards.encoded import EncodedBatch
from data_prep.shards.manifest import Manifest
from data_prep.shards.reader import ShardSet
from data_prep.shards.schema import ShardFormat
from data_prep.shards.unpack import documents_of
from data_prep.shards.writer import ShardWriter

SPLITS = "splits"  # in a part's settings: the weights and the part of every split that led to it
WINDOW = 4096  # documents, where a set's settings name no window: the default of pack.window
KEYS = ["id", "pmid", "doi", "pmcid"]
WEIGHT = re.compile("[1-9][0-9]{0,8}")  # their sum fits an int64


class SplitOptions(Section):
    parts: str = ""  # NAME=WEIGHT,NAME=WEIGHT…; see parse_weights


def split(folder: Path, out: Path, weights: Mapping[str, int]) -> dict[str, Manifest]:
    """Write the shard sets `out`/<part>, with shares of the documents as the weights say.

    `out` appears whole or not at all. Packing, tokenizer, settings and missing inputs are those of the
    set; each part's inputs name the set's hash. Raises ConfigError where `out` exists, DataError where a
    part would be without documents. Memory: a window of documents for every part, and documents_of.
    """
    shards = ShardSet(folder)
    earlier = shards.manifest.settings.get(SPLITS, [])
    boundaries = np.cumsum(list(weights.values()))
    form = shards.manifest.form
    window = window_of(shards.manifest)
    with new_folder(out, "split") as partial:
        with ExitStack() as stack:
            writers = []
            for name in weights:
                (partial / name).mkdir()
                shard, listed = _files(partial / name)
                writers.append(stack.enter_context(ShardWriter(shard, listed, form, window)))
            for batch in _shown(shards, partial):
                part = part_of(batch.about, boundaries, len(earlier))
                for index, writer in enumerate(writers):
                    writer.add_batch(batch.take(np.flatnonzero(part == index)))
        manifests = {}
        for name, writer in zip(weights, writers, strict=True):
            if not writer.counts.documents:
                raise DataError(
                    f"{folder}: no document goes to the part {name} ({weights[name]} of {boundaries[-1]}); "
                    f"the set has {shards.manifest.counts['documents']}: give the part a larger weight"
                )
            how: dict[str, object] = {"weights": dict(weights), "part": name}
            manifests[name] = _set(partial / name, name, writer, shards, form, [*earlier, how])
    return manifests


def part_of(about: pa.Table, boundaries: np.ndarray, earlier: int) -> np.ndarray:
    """int64 (documents,): the part of each, where part k has the numbers up to boundaries[k].

    `earlier` is how many splits came before this one; each draws anew.
    """
    total = int(boundaries[-1])
    metadata = about.select(KEYS).to_pylist()
    keys = (article_key({"id": row["id"], "metadata": row}) for row in metadata)  # type: ignore[typeddict-item]
    numbers = [drawn(f"split {earlier} {key}") * total >> 64 for key in keys]
    return np.searchsorted(boundaries, np.array(numbers, np.int64), side="right")


def window_of(manifest: Manifest) -> int:
    """Documents that were packed at once, as the set's settings say."""
    return int(manifest.settings.get("pack", {}).get("window", WINDOW))


def parse_weights(text: str) -> dict[str, int]:
    """`train=98,validation=2` as a dict; raises ConfigError where it is not of this form."""
    weights: dict[str, int] = {}
    for word in text.split(","):
        name, _, number = word.partition("=")
        if not name.isidentifier() or name in weights or not WEIGHT.fullmatch(number):
            raise ConfigError(
                f"--parts: {word!r}: expected names, each once and with a whole number of 1 to 999999999, as "
                "train=98,validation=2"
            )
        weights[name] = int(number)
    if len(weights) < 2:
        raise ConfigError(f"--parts: {text!r} is one part; expected two or more")
    return weights


def _shown(shards: ShardSet, scratch: Path) -> Iterator[EncodedBatch]:
    size = shards.manifest.token_type.bit_width // 8
    total = (len(shards.row_groups), shards.manifest.counts["tokens"] * size)
    return followed("split", documents_of(shards, scratch), total, lambda it: it.tokens.nbytes)


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / "shard.parquet", folder / ".shard.documents.parquet"


def _set(
    folder: Path,
    name: str,
    writer: ShardWriter,
    shards: ShardSet,
    form: ShardFormat,
    splits: list[dict[str, object]],
) -> Manifest:
    origin = shards.manifest
    shard, listed = _files(folder)
    manifest = assemble(
        folder,
        [Part("shard", shard, listed, writer.counts.as_json())],
        form,
        source=origin.source,
        split=name,
        tokenizer=shards.checked_tokenizer(),
        settings=origin.settings | {SPLITS: splits},
        inputs={f"{origin.source}-{origin.split}": origin.hash},
        missing=origin.missing,
    )
    listed.unlink()
    return manifest
