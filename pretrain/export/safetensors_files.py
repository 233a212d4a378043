"""Writes safetensors files tensor by tensor: the library's own writer wants all of a file in memory.

Format: eight bytes with the header's length (little-endian), the header (JSON; dtype, shape and place of
each tensor, padded with spaces), then the tensors' bytes without gaps.
https://huggingface.co/docs/safetensors/index#format
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from data_prep.files import write_json
from pretrain.export.lazy_weights import LazyTensor

_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8  # of the first tensor's place in the file


def stored_dtype(tensor: LazyTensor, dtype: torch.dtype) -> torch.dtype:
    """The type that a tensor gets in the file: whole numbers stay what they are."""
    return dtype if tensor.dtype.is_floating_point else tensor.dtype


def stored_bytes(tensor: LazyTensor, dtype: torch.dtype) -> int:
    return tensor.numel * stored_dtype(tensor, dtype).itemsize


def divide(
    weights: Mapping[str, LazyTensor], dtype: torch.dtype, file_bytes: int
) -> list[list[str]]:
    """Names by file, in order, no file larger than `file_bytes` unless a tensor is."""
    files: list[list[str]] = [[]]
    size = 0
    for name, tensor in weights.items():
        own = stored_bytes(tensor, dtype)
        if files[-1] and size + own > file_bytes:
            files.append([])
            size = 0
        files[-1].append(name)
        size += own
    return files


def write_weights(
    folder: Path,
    weights: Mapping[str, LazyTensor],
    dtype: torch.dtype,
    file_bytes: int,
    written: Callable[[int], None],
) -> None:
    """Write model.safetensors, or several files and model.safetensors.index.json.

    One tensor is in memory at a time. `written` is told the bytes of each.
    """
    files = divide(weights, dtype, file_bytes)
    count = len(files)
    names = {
        f"model-{number:05d}-of-{count:05d}.safetensors" if count > 1 else "model.safetensors": of
        for number, of in enumerate(files, start=1)
    }
    for name, inside in names.items():
        _write_file(folder / name, {key: weights[key] for key in inside}, dtype, written)
    if count > 1:
        total = sum(stored_bytes(tensor, dtype) for tensor in weights.values())
        index = {
            "metadata": {"total_size": total},
            "weight_map": {key: name for name, inside in names.items() for key in inside},
        }
        write_json(folder / "model.safetensors.index.json", index)


def _write_file(
    path: Path,
    weights: Mapping[str, LazyTensor],
    dtype: torch.dtype,
    written: Callable[[int], None],
) -> None:
    with path.open("wb") as file:
        file.write(_header(weights, dtype))
        for tensor in weights.values():
            content = tensor.read().to(stored_dtype(tensor, dtype)).contiguous().flatten()
            content.view(torch.uint8).numpy().tofile(file)
            written(stored_bytes(tensor, dtype))
            del content  # before the next one is read


def _header(weights: Mapping[str, LazyTensor], dtype: torch.dtype) -> bytes:
    about: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    place = 0
    for name, tensor in weights.items():
        end = place + stored_bytes(tensor, dtype)
        about[name] = {
            "dtype": _NAMES[stored_dtype(tensor, dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps(about, separators=(",", ":")).encode()
    text = text.ljust(_ALIGNMENT * math.ceil(len(text) / _ALIGNMENT))
    return len(text).to_bytes(8, "little") + text


def needed_memory(weights: Sequence[LazyTensor], dtype: torch.dtype) -> int:
    """Bytes of the largest tensor's sources in fp32, of its joined form, and of what is written."""
    largest = max((tensor.numel for tensor in weights), default=0)
    return largest * (4 + 4 + dtype.itemsize)
