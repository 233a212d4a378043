"""A bounded store of the values used last."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Keep the `capacity` values used last, and make the others again when they are asked for."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """Give the value of `key`, from `make()` if it is not held."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        # room first: the new value and the one it displaces are never held together
        while len(self._values) >= self.capacity:
            self._values.popitem(last=False)
        value = self._values[key] = make()
        return value
