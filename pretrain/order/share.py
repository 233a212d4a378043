"""How a sorted global batch is divided over ranks and micro-batches, as pure arithmetic."""

from typing import NamedTuple

from data_prep.errors import ConfigError


class Share(NamedTuple):
    """What every rank computes in a step, filler included where the batch does not divide evenly."""

    rows: int
    accumulation: int

    @property
    def micro_batch(self) -> int:
        """Rows of each micro-batch: as few as hold the rank's rows, the same number in all."""
        return -(-self.rows // self.accumulation)


def rank_share(
    global_batch: int, world: int, micro_batch: int, require_even: bool = False
) -> Share:
    """Give (rows per rank, micro-batches per rank and step) for a global batch of sequences.

    Rank r computes rows r * rows up to (r + 1) * rows of the sorted batch; the last ranks may
    be left with fewer, or none, and fill up with rows that train nothing. A micro-batch holds at most
    `micro_batch` rows. Raises ConfigError for more ranks than sequences and, with `require_even`, for a
    batch that does not divide into ranks and micro-batches exactly.
    """
    for field, value in (
        ("global_batch", global_batch),
        ("world size", world),
        ("micro_batch", micro_batch),
    ):
        if value < 1:
            raise ConfigError(f"batch: {field} is {value}; expected at least 1")
    if world > global_batch:
        raise ConfigError(
            f"batch: {world} ranks share a global batch of {global_batch} sequences; start at most "
            f"{global_batch} ranks, or raise global_batch"
        )
    rows = -(-global_batch // world)
    accumulation = -(-rows // micro_batch)
    even = rows * world == global_batch and accumulation * micro_batch == rows
    if require_even and not even:
        raise ConfigError(
            f"batch: a global batch of {global_batch} sequences is no multiple of {world} ranks x "
            f"micro-batches of {micro_batch}; change one of them, or set require_even to false"
        )
    return Share(rows, accumulation)
