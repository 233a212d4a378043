"""Which sequences form step s: pure functions on integers."""
