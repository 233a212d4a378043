"""Our own part of the comparison of readers (data_path.py): the contract of benchmarks/peers/contract.py.

python -m benchmarks.reading store SHARD_SET ROWS OUTPUT       a set of so many rows, its documents repeated
python -m benchmarks.reading read|batches OUTPUT [FIRST_STEP]  rows alone, or all tensors that a model takes
"""

import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.peers.contract import Reading, report
from data_prep.shards.assemble import Part, assemble
from data_prep.shards.manifest import TOKENIZER_FOLDER
from data_prep.shards.reader import ShardSet
from data_prep.shards.schema import ShardFormat
from data_prep.shards.unpack import documents_of
from data_prep.shards.writer import ShardWriter
from pretrain.order.order import Order, SourceRows

BATCH, SHUFFLE_GROUPS = 512, 64
FILE_ROWS = 64_000


def store(shards: ShardSet, rows: int, output: Path) -> None:
    """At least `rows` rows, in files of FILE_ROWS, of the set's documents under new ids."""
    form = ShardFormat.model_validate(
        {name: getattr(shards.manifest, name) for name in ShardFormat.model_fields}
    )
    output.mkdir(parents=True)
    parts, copy, written = [], 0, 0
    while written < rows:
        name = f"part-{len(parts)}"
        paths = output / f"{name}.parquet", output / f".{name}.documents.parquet"
        with ShardWriter(*paths, form, 4096) as writer:
            while writer.counts.rows < min(FILE_ROWS, rows - written):
                for batch in documents_of(shards):
                    ids = pc.binary_join_element_wise(batch.about["id"], f"copy{copy}", "-")
                    column = pa.chunked_array([ids.combine_chunks()])
                    about = batch.about.set_column(0, batch.about.schema.field(0), column)
                    writer.add_batch(type(batch)(about, batch.tokens, batch.starts))
                copy += 1
        parts.append(Part(name, *paths, writer.counts.as_json()))
        written += writer.counts.rows
    assemble(
        output,
        parts,
        form,
        source="texts",
        split="train",
        tokenizer=shards.folder / TOKENIZER_FOLDER,
        settings={},
        inputs={},
    )


def _order(shards: ShardSet) -> Order:
    rows = SourceRows("texts", shards.row_groups)
    return Order([rows], [1], 1, BATCH, SHUFFLE_GROUPS)


def _rows(output: Path, first: int) -> Iterator[Any]:
    from pretrain.data.step_rows import StepRows

    shards = ShardSet(output)
    steps = range(first, int(shards.row_groups.sum()) // BATCH)
    for step in StepRows(_order(shards), [shards], 0, 1, BATCH).read(steps):
        yield from step.rows.tokens


def _batches(output: Path, first: int) -> Iterator[Any]:
    from pretrain.data.loader import StepDataset, Steps
    from pretrain.data.step_rows import StepRows

    shards = ShardSet(output)
    stop = int(shards.row_groups.sum()) // BATCH
    rows = StepRows(_order(shards), [shards], 0, 1, 64)
    for batch in Steps(StepDataset(rows, "document", first, stop)):
        for micro_batch in batch.micro_batches:
            yield from micro_batch["tokens"]


def main(arguments: list[str]) -> None:
    verb, *rest = arguments
    if verb == "store":
        store(ShardSet(Path(rest[0])), int(rest[1]), Path(rest[2]))
        return
    output, first = Path(rest[0]), int(rest[1]) if len(rest) > 1 else 0
    read = {"read": _rows, "batches": _batches}[verb]
    if verb == "batches":
        import torch  # as the peers' imports, before the clock starts

        torch.set_num_threads(1)
        from pretrain.data import loader  # noqa: F401
    else:
        from pretrain.data import step_rows  # noqa: F401
    report(lambda: Reading(version("biomed-pretrain"), read(output, first)))


if __name__ == "__main__":
    main(sys.argv[1:])
