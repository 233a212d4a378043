"""The process group: who we are, and a few collectives with names."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

from data_prep.errors import ConfigError, DataError
from pretrain.engine.communication_op import load_communication_op, remove_buffer_name


@dataclass(frozen=True)
class Ranks:
    """This process among the others, as the launcher's environment says."""

    rank: int
    local_rank: int
    world: int
    sequence_parallel: int = 1  # neighbouring ranks that share each sequence

    @classmethod
    def from_environment(cls, sequence_parallel: int = 1) -> "Ranks":
        return cls(
            int(os.environ.get("RANK", "0")),
            int(os.environ.get("LOCAL_RANK", "0")),
            int(os.environ.get("WORLD_SIZE", "1")),
            sequence_parallel,
        )

    @property
    def data_rank(self) -> int:
        """Which part of a batch this rank reads, of `data_world`; the ranks of a sequence read the same."""
        return self.rank // self.sequence_parallel

    @property
    def data_world(self) -> int:
        return self.world // self.sequence_parallel

    @property
    def first(self) -> bool:
        return self.rank == 0


def device(ranks: Ranks) -> torch.device:
    if torch.cuda.is_available():
        torch.cuda.set_device(ranks.local_rank)
        return torch.device("cuda", ranks.local_rank)
    return torch.device("cpu")


def check_precision(precision: str) -> None:
    """Raise ConfigError for one that the device does not compute; DeepSpeed would, with the model built."""
    accelerator = get_accelerator()
    if precision == "fp16" and not accelerator.is_fp16_supported():
        raise ConfigError(
            f"training.precision: found fp16, which this {accelerator.device_name().upper()} does not compute; "
            "take bf16 or fp32"
        )


def start(timeout_minutes: float) -> None:
    """Join the process group, before anything is partitioned over it."""
    # A process started by hand is a group of its own.
    for name, alone in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1")):
        os.environ.setdefault(name, alone)
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29500")
    if get_accelerator().device_name() == "cpu":
        load_communication_op()
    # Written out: DeepSpeed's default moved from 30 to 10 minutes in 2026.
    deepspeed.init_distributed(
        timeout=timedelta(minutes=timeout_minutes), verbose=False, auto_mpi_discovery=False
    )
    dist.barrier()  # every rank has mapped every other's buffer
    remove_buffer_name(dist.get_rank())


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    dist.barrier()


def sum_over_ranks(values: Sequence[float], where: torch.device) -> list[float]:
    """Sums over all ranks in fp64, exact for counts up to 2^53."""
    tensor = torch.tensor(list(values), dtype=torch.float64, device=where)
    dist.all_reduce(tensor)
    return tensor.tolist()


def from_first(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: Any) -> list[Any]:
    """Every rank's value, in rank order, on every rank."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def check_shared_folder(folder: Path, ranks: Ranks) -> None:
    """Raise DataError where some rank does not see what rank 0 writes into `folder`."""
    token = from_first(os.urandom(8).hex() if ranks.first else None)
    mark = folder / f".seen-{token}"
    if ranks.first:
        mark.touch()
    barrier()
    # A listing, because network file systems cache that a name is absent.
    seen = gather(mark.name in os.listdir(folder) if folder.is_dir() else False)
    if ranks.first:
        mark.unlink()
    if not all(seen):
        blind = [rank for rank, sees in enumerate(seen) if not sees]
        raise DataError(
            f"run: ranks {blind} do not see rank 0's folder {folder}; put it on a file system that all "
            "nodes share"
        )


def claim(message: str) -> bool:
    """Whether this rank is the first to claim `message`; one rank a node where there is no group."""
    if not dist.is_initialized():
        return Ranks.from_environment().local_rank == 0
    try:
        store = dist.distributed_c10d._get_default_store()
        return store.add(f"said/{message}", 1) == 1
    except RuntimeError:  # the store lived in rank 0, which has ended
        return True
