"""Units as tasks on a Ray cluster, through datatrove's executor for Ray.

The folders must be on a file system that all nodes share, and the nodes have the same Python installed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datatrove.executor.base import PipelineExecutor
from datatrove.executor.ray import RayPipelineExecutor

import data_prep
from data_prep.config import Ray
from data_prep.errors import ConfigError
from data_prep.run.executor import SHARES, Executor, Work

# Beside the path of this package: whether the hub may be asked is this run's decision on every node.
PASSED_ON = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TOKENIZERS_PARALLELISM")


class _ClusterExecutor(RayPipelineExecutor):
    """datatrove's executor with its tasks' logs in the run's folder.

    Its own go through /tmp/ray_logs, which belongs to whoever used a node first.
    """

    _run_for_rank = PipelineExecutor._run_for_rank


class RayJobs(Executor):
    """Tasks of one CPU each, as many at once as the cluster has CPUs and `workers` allows."""

    name = "ray"

    def __init__(self, workers: int, settings: Ray):
        try:
            import ray
        except ImportError:
            raise ConfigError(
                "executor: ray, which is not installed; install biomed-pretrain[ray], or choose another"
            ) from None
        self._address = settings.address
        if not ray.is_initialized():
            _connect(settings.address, workers)
        # More would wait for a place that never comes, and could not be called back.
        self.workers = min(workers, int(ray.cluster_resources().get("CPU", 1)))

    def shares(self, units: int) -> int:
        return min(units, self.workers * SHARES)

    def facts(self) -> dict[str, Any]:
        import ray

        return super().facts() | {"ray_address": self._address, "ray_nodes": len(ray.nodes())}

    def run(self, work: Work, note: Callable[[str], None]) -> Mapping[str, str]:
        _ClusterExecutor(
            pipeline=[work.step],
            tasks=len(work.shares),
            workers=self.workers,
            mem_per_cpu_gb=0,  # not reserved: Ray would wait without a word where it has not as much
            logging_dir=str(work.folder.resolve()),
            skip_completed=False,
        ).run()
        lost = "its Ray task was lost (killed, or its node?) and not brought to an end on another"
        return {unit.name: lost for share in work.shares for unit in share}


def _connect(address: str | None, workers: int) -> None:
    import ray

    package = str(Path(data_prep.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    options: dict[str, Any] = {"address": address}
    if address is None:
        options |= {"num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(
            runtime_env={"env_vars": {"PYTHONPATH": path} | passed},
            log_to_driver=False,
            logging_level=logging.ERROR,
            **options,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"ray.address: no Ray cluster at {address!r}: {' '.join(str(error).split())}; start one with "
            "`ray start --head`, or leave the address out"
        ) from None
