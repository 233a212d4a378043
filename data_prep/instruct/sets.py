"""The shard sets of encoded conversations, and what is told about them."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from data_prep.config import CorpusConfig
from data_prep.curate.stage import SPLITS
from data_prep.errors import ConfigError, DataError
from data_prep.instruct.encoded_file import SOURCE, read_encoded
from data_prep.instruct.stage import (
    REJECTS,
    InstructStage,
    chat_tokenizer,
    instruct_section,
)
from data_prep.progress import console
from data_prep.run.executor import Executor, StageReport, run_stage
from data_prep.shards.assemble import build_shard_set, shard_format
from data_prep.tokenizer.encode import load_encoder
from data_prep.units import Stage, Unit, UnitResult, failures, finished

# A share of trained tokens outside these looks like a template or a format that was not meant.
USUAL_SHARE = (0.05, 0.95)
WINDOW = 4096  # conversations that best fit sees at once, as for documents


class InstructSetStage(Stage):
    """A unit per split that has conversations: the shard set <instruct.output>/instruct-<split>.

    Its tokenizer/ holds the chat template as well, so that it is exported with the model. Conversations
    are packed whole. Raises DataError where none is left to train on, ConfigError where the output folder
    holds another stage's results, which a stage would take for its own and remove.
    """

    name = "instruct-sets"
    version = 1

    def __init__(self, config: CorpusConfig):
        self.encoding = InstructStage(config)
        instruct = instruct_section(config)
        self.directory = instruct.output
        self.settings = self.encoding.settings | {"row_group": instruct.row_group}

    def units(self) -> list[Unit]:
        for result in finished(self.directory):
            if result.record["stage"] != self.name:
                raise ConfigError(
                    f"instruct.output: {self.directory} holds {result.name} of the stage "
                    f"{result.record['stage']}; give a folder of its own"
                )
        units = [
            self._unit(split, parts)
            for split in SPLITS
            if (parts := [unit for unit in finished(self.encoding.directory) if unit.counts[split]])
        ]
        if not any(unit.payload["split"] == "train" for unit in units):
            raise DataError(
                "instruct: no conversation is left to train on; "
                f"{self.encoding.directory}/*/{REJECTS} say why"
            )
        return units

    def _unit(self, split: str, parts: Sequence[UnitResult]) -> Unit:
        name = f"{split}.parquet"
        hashes = {unit.name: unit.files[name]["sha256"] for unit in parts}
        missing = [f"instruct/{unit}" for unit in failures(self.encoding.directory)]
        return Unit(
            f"{SOURCE}-{split}",
            inputs=hashes | {f"missing {unit}": "" for unit in missing},
            bytes=sum(unit.files[name]["bytes"] for unit in parts),
            payload={
                "split": split,
                "files": [str(unit.folder / name) for unit in parts],
                "hashes": hashes,
                "missing": missing,
            },
        )

    def run_unit(self, unit: Unit, folder: Path) -> dict[str, Any]:
        chat = chat_tokenizer(self.encoding.tokenizer, self.encoding.template)
        with tempfile.TemporaryDirectory() as written:
            tokenizer = Path(written)
            chat.write(tokenizer)
            manifest = build_shard_set(
                folder,
                (record for path in unit.payload["files"] for record in read_encoded(Path(path))),
                shard_format(
                    load_encoder(tokenizer),
                    sequence_length=self.settings["sequence_length"],
                    policy="best_fit",
                    row_group=self.settings["row_group"],
                    begin_token=chat.starts_with_begin_token(),
                    has_loss_mask=True,
                ),
                window=WINDOW,
                source=SOURCE,
                split=unit.payload["split"],
                tokenizer=tokenizer,
                settings=self.settings,
                inputs=unit.payload["hashes"],
                missing=unit.payload["missing"],
            )
        assert manifest is not None  # units() leaves out splits without conversations
        return manifest.counts


def make_instruct_sets(config: CorpusConfig, executor: Executor | int = 1) -> Iterator[StageReport]:
    """Run both stages on an executor and show what came of the first.

    The second makes its sets without the files that failed, and names them: who does not want that
    stops after the first report.
    """
    encoding = InstructStage(config)
    report = run_stage(encoding, executor)
    show(finished(encoding.directory))
    yield report
    yield run_stage(InstructSetStage(config), executor)


def show(units: Sequence[UnitResult]) -> None:
    """A table of the encoded files, why records were rejected, and a warning for an unusual share."""
    table = Table("file", "conversations", "turns", "tokens", "trained on", "rejected")
    for unit in units:
        counts = unit.counts
        share = trained_share(counts)
        table.add_row(
            unit.name,
            f"{counts['conversations']:,}",
            f"{counts['turns']:,}",
            f"{counts['tokens']:,}",
            "–" if share is None else f"{share:.1%}",
            f"{sum(counts['rejects'].values()):,}",
        )
    console.print(table)
    for unit in units:
        for reason, number in unit.counts["rejects"].items():
            console.print(f"{unit.name}: {number:,} rejected: {reason}")
        share = trained_share(unit.counts)
        if share is not None and not USUAL_SHARE[0] <= share <= USUAL_SHARE[1]:
            console.print(
                f"{unit.name}: {share:.1%} of the tokens are trained on, usual are "
                f"{USUAL_SHARE[0]:.0%} to {USUAL_SHARE[1]:.0%}: look at some samples before you train"
            )


def trained_share(counts: Mapping[str, Any]) -> float | None:
    """Share of the tokens that are trained on; None where there are none."""
    return counts["trained_tokens"] / counts["tokens"] if counts["tokens"] else None
