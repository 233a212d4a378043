"""Seconds by part of a step, without waiting for the GPU."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Stopwatch:
    """Measures parts by name; those of the same name add up.

    On a GPU it leaves marks in the stream, and only `seconds` reads them: after the work, or it waits.
    """

    def __init__(self, device: torch.device):
        self._on_gpu = device.type == "cuda"
        self._laps: list[tuple[str, Any, Any]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        begin = self._mark()
        yield
        self._laps.append((name, begin, self._mark()))

    def seconds(self) -> dict[str, float]:
        """By part, in the order of their beginning."""
        sums: dict[str, float] = {}
        for name, begin, end in self._laps:
            if self._on_gpu:
                end.synchronize()
            lap = begin.elapsed_time(end) / 1000 if self._on_gpu else end - begin
            sums[name] = sums.get(name, 0.0) + lap
        return sums

    def _mark(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
