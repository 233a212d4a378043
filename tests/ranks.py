"""Ranks of one process group that a test starts by itself, without a launcher."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence

from tests import tiny


class Rank:
    """A Python process, and what it says on standard error."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str]):
        # A file, for a rank that nobody listens to stops at a full pipe, and the others with it.
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  (`end` closes it)
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=tiny.ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
        )

    def end(self, timeout_s: float = 300) -> str:
        """Wait for it; gives what it said."""
        self.process.wait(timeout_s)
        with self._said:
            self._said.seek(0)
            return self._said.read()


def start(arguments: Sequence[str], world: int, **environment: str) -> list[Rank]:
    """Start Python with these arguments as each of `world` ranks on this machine."""
    port = str(tiny.free_port())
    group = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        Rank(
            arguments,
            tiny.ENVIRONMENT | group | environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(world)
    ]


def end(ranks: Sequence[Rank], timeout_s: float = 300) -> None:
    """Wait for all of them; fails the test with what the first one that failed said."""
    said = [rank.end(timeout_s) for rank in ranks]
    failed = [text for text, rank in zip(said, ranks, strict=True) if rank.process.returncode]
    assert not failed, failed[0][-3000:]
