"""A model's weights by name, each read from its file only when asked for.

Files are mapped, not read: what a process holds is the tensor at hand, and what the kernel caches beside
it can be dropped at any time.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from deepspeed.checkpoint.constants import BUFFER_NAMES, PARAM_SHAPES
from safetensors import safe_open

from data_prep.errors import DataError
from pretrain.checkpoints.zero_shards import ZeroShards

# In the order in which transformers looks for them.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is not in memory; `read` brings it there, a new one each time or a mapped view."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def of_tensor(tensor: torch.Tensor) -> LazyTensor:
    """One that is in memory or mapped already."""
    return LazyTensor(tuple(tensor.shape), tensor.dtype, lambda: tensor)


def checkpoint_weights(checkpoint: Path) -> dict[str, LazyTensor]:
    """The trained weights of a ZeRO-1, 2 or 3 checkpoint, in fp32, and the buffers saved with them.

    (deepspeed.utils.zero_to_fp32 of 0.19.8 reads the 16-bit model of ZeRO-1 and 2 whole, and joins all
    partitions in memory.) Raises DataError where files are missing.
    """
    shards = ZeroShards(checkpoint)
    module = shards.model_state["module"]
    weights = {name: of_tensor(module[name]) for name in shards.model_state[BUFFER_NAMES]}
    for group in shards.model_state[PARAM_SHAPES]:
        for name, shape in group.items():
            if shards.numel(name) != shape.numel():
                raise DataError(
                    f"{checkpoint}: its files hold {shards.numel(name):,} of {shape.numel():,} elements "
                    f"of {name}; restore it from a copy, or name another step"
                )
            weights[name] = _joined([piece.detach() for piece in shards.pieces(name)], shape)
    return weights


def _joined(pieces: list[torch.Tensor], shape: torch.Size) -> LazyTensor:
    def read() -> torch.Tensor:
        return (torch.cat(pieces) if len(pieces) > 1 else pieces[0]).view(shape)

    return LazyTensor(tuple(shape), torch.float32, read)


def folder_weights(folder: Path) -> dict[str, LazyTensor]:
    """The weights of a Hugging Face folder under the names that its files give them."""
    weights: dict[str, LazyTensor] = {}
    for path in _weight_files(folder):
        weights |= _of_safetensors(path) if path.suffix == ".safetensors" else _of_pickle(path)
    return weights


def _weight_files(folder: Path) -> list[Path]:
    for name in WEIGHT_FILES:
        index = folder / f"{name}.index.json"
        if index.exists():
            files = json.loads(index.read_bytes())["weight_map"].values()
            return [folder / file for file in sorted(set(files))]
        if (folder / name).exists():
            return [folder / name]
    raise DataError(f"{folder}: found neither of {' and '.join(WEIGHT_FILES)}; it is no model")


def _of_safetensors(path: Path) -> dict[str, LazyTensor]:
    with safe_open(path, "pt") as file:
        return {name: of_tensor(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118


def _of_pickle(path: Path) -> dict[str, LazyTensor]:
    try:
        tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except RuntimeError as error:  # written before torch 1.6
        raise DataError(
            f"{path}: its format cannot be mapped; load the model with transformers and save it again"
        ) from error
    return {name: of_tensor(tensor) for name, tensor in tensors.items()}
