"""The model card of an exported model: README.md with the front matter that the Hugging Face hub reads.

https://huggingface.co/docs/hub/model-cards
"""

import datetime
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from huggingface_hub import ModelCardData

from data_prep.card.markdown import cell, share, top
from data_prep.errors import ConfigError
from data_prep.files import read_json
from data_prep.shards.manifest import DOCUMENTS_FILE
from data_prep.shards.reader import ShardSet
from data_prep.templates import render
from pretrain.checkpoints.names import MANIFEST
from pretrain.config import RunConfig
from pretrain.export.config import ExportConfig
from pretrain.watch.metrics import METRICS, read_metrics

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
UNKNOWN = "unknown"
PACKAGES = ("torch", "transformers", "deepspeed", "peft")
_RESULTS = {"models", "perplexity", "tasks"}  # of launch/evaluate.py


@dataclass(frozen=True)
class SetFacts:
    """A shard set that was trained on, and how much of it was seen."""

    hash: str
    documents: int
    tokens: int
    sequences_seen: int
    tokens_seen: int
    epochs: float
    licences: Mapping[str, list[int]]  # licence: [documents, tokens]


@dataclass(frozen=True)
class CardFacts:
    """Everything that the card says."""

    name: str
    front: Mapping[str, Any]  # of the hub's front matter
    origin: str  # what training began with
    merged: bool | None  # none: no adapters
    architecture: str
    parameters: int
    dtype: str
    step: int
    tokens: int  # trained on
    saved: datetime.datetime | None  # when the checkpoint was written, UTC
    sets: Mapping[str, SetFacts]  # by source
    first_loss: float | None
    last_loss: float | None
    validation: Mapping[str, Mapping[str, Any]]  # source: loss, perplexity, tokens
    evaluation: Mapping[str, Any] | None
    config: Mapping[str, Any]
    deepspeed: Mapping[str, Any]
    versions: Mapping[str, str]


def render_card(facts: CardFacts) -> str:
    """The card's text."""
    values = {
        "facts": facts,
        "front": ModelCardData(**facts.front).to_yaml(),
        "licences": _licences(facts.sets),
        "share": share,
        "top": top,
    }
    return render(
        TEMPLATE,
        values,
        decimal="{:.4f}".format,
        cell=cell,
        yaml=lambda value: yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip(),
        json=lambda value: json.dumps(value, indent=1, sort_keys=True),
    )


def read_evaluation(path: Path) -> dict[str, Any]:
    """results.json of launch/evaluate.py; ConfigError where the file is none."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not found.keys() >= _RESULTS:
        raise ConfigError(
            f"evaluation: {path} is not what launch/evaluate.py writes; give its results.json"
        )
    return found


def read_facts(
    config: ExportConfig,
    run: RunConfig,
    checkpoint: Path | None,
    state: Mapping[str, Any],
    architecture: str,
    parameters: int,
) -> CardFacts:
    """What the run's folder and its shard sets say about the model of `checkpoint`."""
    step = int(state.get("step", 0))
    told = _told(config.run, step)
    saved = None
    if checkpoint:
        written = (checkpoint / MANIFEST).stat().st_mtime
        saved = datetime.datetime.fromtimestamp(written, datetime.UTC)
    merged = config.merge if run.model.lora else None
    return CardFacts(
        name=config.output.name,
        front=_front(config, run, merged),
        origin=_origin(run),
        merged=merged,
        architecture=architecture,
        parameters=parameters,
        dtype=config.dtype,
        step=step,
        tokens=int(state.get("total_tokens", 0)),
        saved=saved,
        sets={
            name: _set_facts(
                ShardSet(source.path, whole=False), told.sequences[name], told.epochs.get(name, 0.0)
            )
            for name, source in run.data.train.items()
        },
        first_loss=told.first_loss,
        last_loss=told.last_loss,
        validation=told.validation,
        evaluation=read_evaluation(config.evaluation) if config.evaluation else None,
        config=_without_folders(run.model_dump(mode="json")),
        deepspeed=_without_folders(read_json(config.run / "deepspeed.json")),
        versions={package: version(package) for package in PACKAGES},
    )


@dataclass
class _Told:
    """What a run's metrics say of the steps up to one."""

    sequences: Counter[str] = field(default_factory=Counter)
    epochs: Mapping[str, float] = field(default_factory=dict)
    first_loss: float | None = None
    last_loss: float | None = None
    validation: Mapping[str, Any] = field(default_factory=dict)


def _told(run: Path, step: int) -> _Told:
    told = _Told()
    for line in read_metrics(run) if (run / METRICS).exists() else ():
        if line["step"] > step:
            continue
        if "loss" in line:
            told.sequences.update(line["rows"])
            told.epochs = line["epochs"]
            if line["loss"] is not None:
                told.last_loss = line["loss"]
                told.first_loss = line["loss"] if told.first_loss is None else told.first_loss
        told.validation = line.get("validation", told.validation)
    return told


def _set_facts(shards: ShardSet, sequences_seen: int, epochs: float) -> SetFacts:
    counts = shards.manifest.counts
    return SetFacts(
        hash=shards.manifest.hash,
        documents=counts["documents"],
        tokens=counts["tokens"],
        sequences_seen=sequences_seen,
        tokens_seen=sequences_seen * shards.manifest.sequence_length,
        epochs=epochs,
        licences=_licences_of(shards),
    )


def _licences_of(shards: ShardSet) -> dict[str, list[int]]:
    """[documents, tokens] by licence; the list of documents is read a part at a time."""
    tally: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    with pq.ParquetFile(pa.BufferReader(shards.content(DOCUMENTS_FILE))) as file:
        for batch in file.iter_batches(columns=["licence", "tokens"]):
            table = pa.Table.from_batches([batch])
            licence = pc.fill_null(table["licence"].cast(pa.string()), UNKNOWN)
            grouped = pa.table({"licence": licence, "tokens": table["tokens"]}).group_by("licence")
            for row in grouped.aggregate([("tokens", "count"), ("tokens", "sum")]).to_pylist():
                tally[row["licence"]][0] += row["tokens_count"]
                tally[row["licence"]][1] += row["tokens_sum"]
    return dict(tally)


def _licences(sets: Mapping[str, SetFacts]) -> dict[str, list[int]]:
    """Summed over the sets that were read."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for one in sets.values():
        if one.sequences_seen:
            for licence, (documents, tokens) in one.licences.items():
                sums[licence][0] += documents
                sums[licence][1] += tokens
    return dict(sums)


def _front(config: ExportConfig, run: RunConfig, merged: bool | None) -> dict[str, Any]:
    path = run.model.path
    on_hub = path is not None and not Path(path).is_dir()
    return {
        "language": config.language,
        "license": config.license,
        "library_name": "peft" if merged is False else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["biology", "medical"],
        "base_model": path if on_hub else None,
        "datasets": config.datasets or None,
    }


def _origin(run: RunConfig) -> str:
    if run.model.branch:
        return f"the checkpoint of another run, {run.model.branch.run.name}"
    if run.model.path is None:
        return "random weights"
    revision = f" at revision {run.model.revision}" if run.model.revision else ""
    return f"the model {_without_folders(run.model.path)}{revision}"


def _without_folders(value: Any) -> Any:
    """Absolute paths shortened to their last part: where files lay is nobody else's business."""
    if isinstance(value, dict):
        return {key: _without_folders(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_without_folders(one) for one in value]
    if isinstance(value, str) and value.startswith("/"):
        return Path(value).name
    return value
