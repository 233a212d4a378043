"""What a DeepSpeed checkpoint holds of each parameter, whatever ranks and ZeRO stage wrote it.

Every rank of a ZeRO run saves flat fp32 tensors, in which its parts of the parameters lie one after the
other, and the optimizer's state in the same shape. Where a part lies is said by the model's file
(`param_shapes`; stage 3 divides each parameter evenly, rounded up) or beside the tensors
(`param_slice_mappings`; stages 1 and 2 divide the flat tensor). Files are mapped, not read: only what is
copied is fetched.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data_prep.errors import DataError

_RANK_FILE = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_00_optim_states\.pt")
WEIGHT = "fp32"  # key of the fp32 weights, beside the optimizer's own keys


@dataclass(frozen=True)
class Part:
    """Where one rank's part of a parameter lies: elements [start, start + numel) of flat tensor `group`."""

    group: int
    start: int
    numel: int


def copy_range(pieces: Sequence[torch.Tensor], begin: int, target: torch.Tensor) -> None:
    """Copy elements [begin, begin + target.numel()) of the concatenation of 1-D `pieces` into `target`."""
    end = begin + target.numel()
    offset = 0
    for piece in pieces:
        first, last = max(begin, offset), min(end, offset + piece.numel())
        if first < last:
            target[first - begin : last - begin].copy_(piece[first - offset : last - offset])
        offset += piece.numel()
    if end > offset:
        raise ValueError(f"elements up to {end} of {offset} are asked for")


class ZeroShards:
    """The parameters and optimizer states in a checkpoint's folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        found = [(_RANK_FILE.fullmatch(path.name), path) for path in folder.iterdir()]
        files = sorted((int(match[1]), path) for match, path in found if match)
        if not files or [rank for rank, _ in files] != list(range(len(files))):
            raise DataError(
                f"{folder}: has no optimizer states of ranks 0, 1, …; restore the files"
            )
        self.states = [_map(path)["optimizer_state_dict"] for _, path in files]
        stage3 = "fp32_flat_groups" in self.states[0]
        self._flat = "fp32_flat_groups" if stage3 else "single_partition_of_fp32_groups"
        self._optimizer = "optimizer_state_dict" if stage3 else "base_optimizer_state"
        pattern = "zero_pp_rank_0_mp_rank_00" if stage3 else "mp_rank_00"
        self.model_state = _map(folder / f"{pattern}_model_states.pt")
        self._parts = self._evenly_divided() if stage3 else self._as_mapped()

    def _evenly_divided(self) -> list[dict[str, Part]]:
        world = len(self.states)
        parts: list[dict[str, Part]] = [{} for _ in self.states]
        for group, shapes in enumerate(self.model_state["param_shapes"]):
            start = 0
            for name, shape in shapes.items():
                whole = math.prod(shape)
                share = math.ceil(whole / world)
                for rank in range(world):
                    rest = min(share, max(0, whole - rank * share))
                    parts[rank][name] = Part(group, start, rest)
                start += share
        return parts

    def _as_mapped(self) -> list[dict[str, Part]]:
        return [
            {
                name: Part(group, address.start, address.numel)
                for group, mapping in enumerate(state["param_slice_mappings"])
                for name, address in mapping.items()
            }
            for state in self.states
        ]

    @property
    def names(self) -> set[str]:
        """The trained parameters."""
        return {name for parts in self._parts for name in parts}

    def optimizer_state(self, name: str) -> dict[str, Any]:
        """The optimizer's state beside a parameter: flat tensors of one rank's group, and plain values."""
        rank, part = next((r, parts[name]) for r, parts in enumerate(self._parts) if name in parts)
        return self._state_of(rank, part.group)

    def _state_of(self, rank: int, group: int) -> dict[str, Any]:
        return self.states[rank][self._optimizer]["state"].get(group, {})

    def numel(self, name: str) -> int:
        return sum(parts[name].numel for parts in self._parts if name in parts)

    def pieces(self, name: str, key: str = WEIGHT) -> list[torch.Tensor]:
        """1-D views that make, one after the other, the flattened parameter (or its optimizer state `key`)."""
        views = []
        for rank, parts in enumerate(self._parts):
            part = parts.get(name)
            if part is None or not part.numel:
                continue
            flat = (
                self.states[rank][self._flat][part.group]
                if key == WEIGHT
                else self._state_of(rank, part.group)[key]
            )
            views.append(flat[part.start : part.start + part.numel])
        return views


def _map(path: Path) -> dict[str, Any]:
    try:
        # DeepSpeed's own classes are in it; the manifest has vouched for the bytes.
        return torch.load(path, map_location="cpu", mmap=True, weights_only=False)
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no longer there; a run that still goes on may have removed its checkpoint: name "
            "one that it keeps"
        ) from error
