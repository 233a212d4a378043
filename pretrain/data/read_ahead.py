"""Values made by threads before they are asked for: the row groups that the next steps will need."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class ReadAhead(Generic[Key, Value]):
    """Gives make(key) for each key wanted, in the order in which they were wanted.

    At most `limit` values wait to be taken or are in the making, `threads` of them at a time. Use as a
    context: on leaving it what has not begun never will, and no thread is left running.
    """

    def __init__(self, make: Callable[[Key], Value], limit: int, threads: int):
        self._make = make
        self._limit, self._thread_count = limit, threads
        self._wanted: deque[Key] = deque()
        self._begun: deque[Future[Value]] = deque()

    def __enter__(self) -> Self:
        self._threads = ThreadPoolExecutor(self._thread_count, "read-ahead")
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    @property
    def full(self) -> bool:
        """Whether nothing that is wanted now would be begun now."""
        return len(self._begun) >= self._limit

    def want(self, keys: Iterable[Key]) -> None:
        self._wanted.extend(keys)
        self._begin()

    def take(self) -> Value:
        """Wait for the value wanted first of those not taken yet; raises what making it raised."""
        value = self._begun[0].result
        try:
            return value()
        finally:
            self._begun.popleft()
            self._begin()

    def _begin(self) -> None:
        while self._wanted and not self.full:
            self._begun.append(self._threads.submit(self._make, self._wanted.popleft()))
