"""What all ranks, and all starts of a run, must have in common."""

from typing import Any

from data_prep.errors import DataError
from pretrain import distributed
from pretrain.config import RunConfig, decisive_settings
from pretrain.distributed import Ranks
from pretrain.engine.deepspeed_config import decisive_leaves
from pretrain.origin import Origin
from pretrain.plan import Plan, ledger_of
from pretrain.run_folder import differences


def agreed_plan(config: RunConfig, plan: Plan, ranks: Ranks) -> Plan:
    """The plan with the ledger as it is now that nobody else writes it, the same on all ranks."""
    plan = plan.with_ledger(
        config, distributed.from_first(ledger_of(config) if ranks.first else None)
    )
    seen = distributed.gather(decisive_settings(config) | plan.identity(plan.steps))
    for rank, other in enumerate(seen):
        if found := differences(seen[0], other):
            raise DataError(
                f"rank {rank} would train on something else than rank 0 ({found[0]}, there); give "
                "every node the same config and the same shard sets"
            )
    return plan


def decisive(config: RunConfig, plan: Plan, origin: Origin, step: int) -> dict[str, Any]:
    """Everything that order or numerics of the first `step` steps depend on, to be compared at a resume."""
    return (
        decisive_settings(config)
        | plan.identity(step)
        | decisive_leaves(plan.deepspeed_settings)
        | origin.identity
    )
