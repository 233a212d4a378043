"""What a run's weights come from, recorded so that a resume begins with the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import ConfigError
from data_prep.tokenizer.extension import Extension
from pretrain import distributed
from pretrain.checkpoints import branch
from pretrain.checkpoints.checkpoint import read_state
from pretrain.config import RunConfig
from pretrain.distributed import Ranks
from pretrain.model.base_model import file_hashes, local_folder, weights_hash
from pretrain.plan import Plan, check_tokenizer

Hashes = Mapping[str, str]


def look_at_base(config: RunConfig, ranks: Ranks) -> Hashes | None:
    """Hashes of this rank's part of the base model's files, which may be downloaded first.

    Called before the process group stands: either may take longer than a collective operation may.
    """
    model = config.model
    if model.path is None:
        return None
    return file_hashes(local_folder(model.path, model.revision), ranks.rank, ranks.world)


@dataclass(frozen=True)
class Origin:
    """A base model by its weights' hash, or another run's checkpoint; neither for a model from scratch."""

    weights: str | None = None
    extension: Extension | None = None  # of the base's vocabulary, by the shards
    source: Path | None = (
        None  # the checkpoint that a branch begins with, while it has none of its own
    )
    branch: dict[str, Any] | None = None  # what is recorded of it

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same at a resume."""
        named = {"base model's weights": self.weights}
        return named | ({"branch": self.branch} if self.branch else {})


def agreed_origin(
    config: RunConfig, plan: Plan, ranks: Ranks, base: Hashes | None, state: dict[str, Any]
) -> tuple[Origin, list[str]]:
    """The origin, the same on all ranks, and what is to be told; `state` of the run's own checkpoint, if any.

    Raises ConfigError for a base model of another tokenizer, DataError for a branch of which nothing is whole.
    """
    model = config.model
    if base is not None:
        assert model.path is not None
        folder = local_folder(model.path, model.revision)
        extension = check_tokenizer(next(iter(plan.train.values())), folder)
        return Origin(weights_hash(distributed.gather(base)), extension), []
    if model.branch is None:
        return Origin(), []
    if state:
        recorded = state["decisive"].get("branch")
        now = branch.identity_at_resume(model.branch, recorded) if ranks.first else None
        return Origin(branch=distributed.from_first(now)), []
    source, told = branch.find_source(model.branch, ranks)
    found = read_state(source)["decisive"]["tokenizer"]
    if found != plan.manifest.tokenizer_fingerprint:
        raise ConfigError(
            f"model.branch.run: {model.branch.run} was trained with the tokenizer {found[:12]}…, the shards were "
            f"built with {plan.manifest.tokenizer_fingerprint[:12]}…; build them with that one"
        )
    identity = branch.identity(source) if ranks.first else None
    return Origin(source=source, branch=distributed.from_first(identity)), told
