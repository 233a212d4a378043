"""What a run will do, known before the first process group: shard sets, order, batch arithmetic, steps.

No torch here: a mistake in the config shows in a second.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import ConfigError, DataError
from data_prep.shards.manifest import Manifest
from data_prep.shards.reader import ShardSet
from pretrain.config import RunConfig
from pretrain.deepspeed_config import effective_config
from pretrain.order import Order, SourceRows
from pretrain.schedule import check_schedule
from pretrain.share import Share, rank_share


@dataclass(frozen=True)
class Plan:
    """The data side of a run."""

    train: dict[str, ShardSet]
    validation: dict[str, ShardSet]
    order: Order
    share: Share
    deepspeed_settings: dict[str, Any]
    steps: int

    @property
    def manifest(self) -> Manifest:
        """Of the first training set; length and tokenizer are the same in all."""
        return next(iter(self.train.values())).manifest

    def identity(self) -> dict[str, Any]:
        """What must be the same for a resume: order, contents of the shard sets, tokenizer."""
        return {
            "order": self.order.fingerprint(),
            "steps": self.steps,
            "tokenizer": self.manifest.tokenizer_fingerprint,
            "shards": {name: shards.manifest.hash for name, shards in self.train.items()},
        }


def make_plan(config: RunConfig, world: int) -> Plan:
    """Open the shard sets, check that they belong together, and count.

    Raises ConfigError or DataError naming the set and the field.
    """
    train = {
        name: _open(f"data.train.{name}.path", source.path)
        for name, source in config.data.train.items()
    }
    validation = {
        name: _open(f"data.validation.{name}", path)
        for name, path in config.data.validation.items()
    }
    first = next(iter(train))
    for kind, sets in (("train", train), ("validation", validation)):
        for name, shards in sets.items():
            _check_alike(f"data.{kind}.{name}", shards, f"data.train.{first}", train[first])
    settings = config.training
    order = Order(
        [SourceRows(name, shards.row_groups) for name, shards in train.items()],
        [source.weight for source in config.data.train.values()],
        config.seed,
        settings.global_batch,
        config.data.shuffle_groups,
    )
    share = rank_share(
        settings.global_batch, world, settings.micro_batch, require_even=config.data.require_even
    )
    rows = sum(int(shards.row_groups.sum()) for shards in train.values())
    steps = settings.steps or math.ceil((settings.epochs or 0) * rows / settings.global_batch)
    check_schedule(config.schedule, steps)
    deepspeed_settings = effective_config(config.deepspeed, settings, share.accumulation)
    return Plan(train, validation, order, share, deepspeed_settings, steps)


def _open(field: str, path: Path) -> ShardSet:
    if not path.is_dir():
        raise ConfigError(
            f"{field}: found no folder {path}; python -m data_prep all CONFIG makes shard sets, in "
            "its output's shards/"
        )
    return ShardSet(path)


def _check_alike(place: str, shards: ShardSet, first_place: str, first: ShardSet) -> None:
    for field, what in (
        ("tokenizer_fingerprint", "another tokenizer"),
        ("sequence_length", "another sequence length"),
    ):
        found, expected = getattr(shards.manifest, field), getattr(first.manifest, field)
        if found != expected:
            raise DataError(
                f"{place}: {shards.folder} was built with {what} ({found}) than {first_place} "
                f"({expected}); build both with the same one"
            )


def check_tokenizer(plan: Plan, model_folder: Path) -> None:
    """Raise ConfigError where the model's own tokenizer is not the one that made the shards."""
    from data_prep.tokenizer.encode import load_encoder

    if not any((model_folder / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        return
    found = load_encoder(model_folder).fingerprint
    if found != plan.manifest.tokenizer_fingerprint:
        raise ConfigError(
            f"model.path: {model_folder} has the tokenizer {found[:12]}…, the shards were built with "
            f"{plan.manifest.tokenizer_fingerprint[:12]}…; build the shards with tokenizer.path: {model_folder}"
        )
