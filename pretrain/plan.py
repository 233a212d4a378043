"""What a run will do, known before the first process group: shard sets, order, batch arithmetic, steps.

No torch here: a mistake in the config shows in a second.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_prep.errors import ConfigError, DataError
from data_prep.shards.manifest import TOKENIZER_FOLDER, Manifest
from data_prep.shards.reader import ShardSet
from data_prep.shards.storage import Place
from data_prep.tokenizer.extension import EXTENSION_FILE, Extension, parse_extension
from pretrain.config import RunConfig
from pretrain.engine.deepspeed_config import run_settings
from pretrain.engine.schedule import check_schedule
from pretrain.ledger import (
    BadRowGroup,
    Entry,
    PhaseEntry,
    SkipEntry,
    as_json,
    in_order,
    read_ledger,
)
from pretrain.order.order import Order, SourceRows
from pretrain.order.share import Share, rank_share


@dataclass(frozen=True)
class Plan:
    """The data side of a run."""

    train: dict[str, ShardSet]
    validation: dict[str, ShardSet]
    order: Order
    share: Share
    deepspeed_settings: dict[str, Any]
    steps: int
    ledger: list[Entry]  # how the run begins, its phases, and what it came to leave out

    @property
    def manifest(self) -> Manifest:
        """Of the first training set; length and tokenizer are the same in all."""
        return next(iter(self.train.values())).manifest

    def identity(self, step: int) -> dict[str, Any]:
        """What must be the same for a resume after `step` steps: their order, the sets they read, tokenizer.

        What comes later may change: another phase, or a source that joins in one.
        """
        counts = self.order.counts(step)
        read = [name for name, count in zip(self.train, counts, strict=True) if count]
        past = [entry for entry in self.ledger if entry.step < step]
        return {
            # The order's fingerprint depends on them too; here they can be read.
            "phases": [as_json(entry) for entry in past if isinstance(entry, PhaseEntry)],
            "skips": [[entry.step, entry.steps] for entry in past if isinstance(entry, SkipEntry)],
            "bad row groups": [
                [entry.step, entry.source, entry.group]
                for entry in past
                if isinstance(entry, BadRowGroup)
            ],
            "order": self.order.fingerprint(step),
            "steps": self.steps,
            "tokenizer": self.manifest.tokenizer_fingerprint,
            "shards": {name: self.train[name].manifest.hash for name in read},
        }

    def with_ledger(self, config: RunConfig, ledger: list[Entry]) -> "Plan":
        """With another ledger, whose first entry says how the run begins."""
        return replace(self, ledger=ledger, order=order_of(config, self.train, ledger))


def make_plan(config: RunConfig, world: int) -> Plan:
    """Open the shard sets, check that they belong together, and count.

    Raises ConfigError or DataError naming the set and the field.
    """
    train = open_training_sets(config)
    validation = {
        name: _open(f"data.validation.{name}", path, whole=True)
        for name, path in config.data.validation.items()
    }
    first = next(iter(train))
    for kind, sets in (("train", train), ("validation", validation)):
        for name, shards in sets.items():
            _check_alike(f"data.{kind}.{name}", shards, f"data.train.{first}", train[first])
    ledger = ledger_of(config)
    order = order_of(config, train, ledger)
    share = _shares(config, _data_world(config, world))[0]
    steps = steps_of(config, train, order)
    check_schedule(config.schedule, steps)
    deepspeed_settings = run_settings(config, world, share.accumulation)
    return Plan(train, validation, order, share, deepspeed_settings, steps, ledger)


def open_training_sets(config: RunConfig) -> dict[str, ShardSet]:
    """The sets by source; files may be missing where the config lets a run go on without them."""
    whole = config.data.bad_row_groups == "stop"
    return {
        name: _open(f"data.train.{name}.path", source.path, whole)
        for name, source in config.data.train.items()
    }


def rows_of_epoch(shards: ShardSet) -> int:
    return int(shards.row_groups.sum()) // shards.manifest.epochs


def steps_of(config: RunConfig, train: Mapping[str, ShardSet], order: Order) -> int:
    """The steps of the whole run."""
    if config.training.steps is not None:
        return config.training.steps
    rows = sum(rows_of_epoch(shards) for shards in train.values())
    return order.steps_for(math.ceil((config.training.epochs or 0) * rows))


def ledger_of(config: RunConfig) -> list[Entry]:
    """How the config lets the run begin, its phases, and what the run's ledger says besides."""
    weights = {name: source.weight for name, source in config.data.train.items() if source.weight}
    phases = [
        PhaseEntry(0, weights, config.training.global_batch),
        *(
            PhaseEntry(phase.from_step, phase.weights, phase.global_batch)
            for phase in config.phases
        ),
    ]
    found = [entry for entry in read_ledger(config.run) if not isinstance(entry, PhaseEntry)]
    return in_order([*phases, *found])


def order_of(config: RunConfig, train: Mapping[str, ShardSet], ledger: Sequence[Entry]) -> Order:
    """The order of a run with this ledger, whose first entry says what the config says too."""
    return Order(
        [
            SourceRows(name, shards.row_groups, shards.manifest.epochs)
            for name, shards in train.items()
        ],
        [config.data.train[name].weight for name in train],
        config.seed,
        config.training.global_batch,
        config.data.shuffle_groups,
        ledger[1:],
    )


def _data_world(config: RunConfig, world: int) -> int:
    """How many groups of ranks read a batch; ConfigError where the ranks cannot be divided so."""
    parallel = config.training.sequence_parallel
    if world % parallel:
        raise ConfigError(
            f"training.sequence_parallel: {world} ranks are no multiple of {parallel}; choose a divisor"
        )
    return world // parallel


def _shares(config: RunConfig, world: int) -> list[Share]:
    """How each batch size of the run is divided; the one that it begins with first."""
    batches = {"training.global_batch": config.training.global_batch} | {
        f"phases.{number}.global_batch": phase.global_batch
        for number, phase in enumerate(config.phases)
        if phase.global_batch
    }
    shares = []
    for field, batch in batches.items():
        try:
            share = rank_share(batch, world, config.training.micro_batch, config.data.require_even)
        except ConfigError as error:
            fault = str(error).removeprefix("batch: ")
            raise ConfigError(f"{field}: {fault}") from error
        shares.append(share)
    return shares


def _open(field: str, place: Place, whole: bool) -> ShardSet:
    if isinstance(place, Path) and not place.is_dir():
        raise ConfigError(
            f"{field}: found no folder {place}; python -m data_prep all CONFIG makes shard sets, in "
            "its output's shards/"
        )
    return ShardSet(place, whole)


def _check_alike(place: str, shards: ShardSet, first_place: str, first: ShardSet) -> None:
    for field, what in (
        ("tokenizer_fingerprint", "another tokenizer"),
        ("sequence_length", "another sequence length"),
    ):
        found, expected = getattr(shards.manifest, field), getattr(first.manifest, field)
        if found != expected:
            raise DataError(
                f"{place}: {shards.storage.place} was built with {what} ({found}) than {first_place} "
                f"({expected}); build both with the same one"
            )


def check_tokenizer(shards: ShardSet, model_folder: Path) -> Extension | None:
    """How the shards' tokenizer extends the model's own; None where it is the same, or the model has none.

    Raises ConfigError where the shards were made with another tokenizer.
    """
    from data_prep.tokenizer.encode import load_encoder

    if not any((model_folder / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        return None
    found = load_encoder(model_folder).fingerprint
    expected = shards.manifest.tokenizer_fingerprint
    if found == expected:
        return None
    extension = _extension(shards)
    if extension and extension.base_fingerprint == found:
        return extension
    base = (
        f" (it extends {extension.base_fingerprint[:12]}…, which is another one)"
        if extension
        else ""
    )
    raise ConfigError(
        f"model.path: {model_folder} has the tokenizer {found[:12]}…, the shards were built with "
        f"{expected[:12]}…{base}; build the shards with tokenizer.path: {model_folder}, or with "
        "tokenizer.extend.path there"
    )


def _extension(shards: ShardSet) -> Extension | None:
    """What the shards' tokenizer extends; None where it extends nothing."""
    if EXTENSION_FILE not in shards.manifest.tokenizer:
        return None
    name = f"{TOKENIZER_FOLDER}/{EXTENSION_FILE}"
    return parse_extension(shards.content(name), shards.storage.address(name))
