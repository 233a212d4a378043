"""Python's search for cycles of garbage, made rare where records come and go by the thousand."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# New objects between two searches; Python's own number is 700. Records are trees, which need no search,
# and a batch of them is some 20,000 objects.
OBJECTS = 1 << 18


@contextmanager
def rare_collections() -> Iterator[None]:
    """Search every OBJECTS new objects, and among these alone: a sixth of an extraction's time otherwise."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
