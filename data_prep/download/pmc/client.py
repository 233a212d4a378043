"""Hundreds of small objects of a bucket at once over one asyncio client, each verified."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from data_prep.download.transfer import (
    LONGEST_WAIT_S,
    TIMEOUT_S,
    TRANSIENT,
    BrokenError,
    Patience,
    UnwillingError,
    retry_after,
)
from data_prep.errors import DataError
from data_prep.source_config import Bucket

if TYPE_CHECKING:
    import aiohttp

_MD5 = re.compile(r"[0-9a-f]{32}")
_RECOVERY_S = 1.0  # between two halvings: answers to requests of before tell nothing new


class GoneError(Exception):
    """The bucket has no such object."""


class TooLargeError(Exception):
    """The object is larger than what was asked for."""

    def __init__(self, size: int):
        super().__init__(f"{size} bytes")
        self.size = size


class Throttle:
    """How many requests run at once: half of them when the server asks for less, then one more a round."""

    def __init__(self, most: int):
        self.limit = float(most)
        self._most = most
        self._running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._halved = float("-inf")

    async def __aenter__(self) -> None:
        while self._running >= int(self.limit):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        self._running += 1

    async def __aexit__(self, *exception: object) -> None:
        self._running -= 1
        for _ in range(int(self.limit) - self._running):
            if not self._waiting:
                return
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)

    def faster(self) -> None:
        """The server answered: allow a little more."""
        self.limit = min(float(self._most), self.limit + 1 / self.limit)

    def slower(self, now: float) -> None:
        """The server asked for less."""
        if now - self._halved > _RECOVERY_S:
            self._halved, self.limit = now, max(1.0, self.limit / 2)


class BucketClient:
    """Anonymous reading of a public bucket; as a context manager it holds the connections."""

    def __init__(self, bucket: Bucket, patience: Patience):
        self.base = base_address(bucket)
        self._patience = patience
        self._connections = bucket.connections
        self.throttle = Throttle(bucket.connections)
        self.requests = 0

    async def __aenter__(self) -> Self:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_S, sock_read=TIMEOUT_S)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=60),
            timeout=timeout,
            headers={
                "Accept-Encoding": "identity"
            },  # the MD5 is that of the bytes as they lie there
            auto_decompress=False,
            trust_env=True,  # proxies
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def get(self, key: str, most_bytes: int | None = None) -> tuple[bytes, str]:
        """The content of an object and its MD5, which is its ETag's where that is one.

        Raises GoneError where there is none, TooLargeError above `most_bytes`, DataError naming the address
        where it cannot be had after all attempts.
        """
        import aiohttp

        url = f"{self.base}/{quote(key)}"
        failures = 0
        while True:
            wait: float | None = None
            try:
                async with self.throttle:
                    return await self._get(url, most_bytes)
            except UnwillingError as refusal:
                self.throttle.slower(asyncio.get_running_loop().time())
                error, wait = refusal, refusal.wait
            except (aiohttp.ClientError, TimeoutError, OSError, BrokenError) as fault:
                error = fault  # type: ignore[assignment]
            failures += 1
            reason = " ".join(str(error).split()) or type(error).__name__
            if failures >= self._patience.attempts:
                raise DataError(f"{url}: {reason}, {failures} times in a row") from error
            if wait and wait > LONGEST_WAIT_S:
                raise DataError(f"{url}: the server asks to come back in {wait:.0f} s") from error
            # Jitter: those who failed together must not come back together.
            pause = self._patience.pause(failures, wait)
            await asyncio.sleep(
                pause * (random.uniform(1, 1.5) if wait else random.uniform(0.5, 1.5))
            )

    async def _get(self, url: str, most_bytes: int | None) -> tuple[bytes, str]:
        import yarl

        self.requests += 1
        async with self._session.get(yarl.URL(url, encoded=True)) as answer:
            _check_status(url, answer)
            size = answer.content_length
            if most_bytes and size and size > most_bytes:
                raise TooLargeError(size)
            content = await answer.read()
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        etag = answer.headers.get("ETag", "").strip('"').lower()
        if _MD5.fullmatch(etag) and etag != md5:
            raise BrokenError(f"its MD5 is {md5}, its ETag says {etag}")
        self.throttle.faster()
        return content, md5


def base_address(bucket: Bucket) -> str:
    """Where the bucket's keys begin: Amazon's address of it, or a folder of another server."""
    if bucket.endpoint:
        return f"{bucket.endpoint.rstrip('/')}/{bucket.name}"
    return f"https://{bucket.name}.s3.amazonaws.com"


def _check_status(url: str, answer: aiohttp.ClientResponse) -> None:
    if answer.status == 404:
        raise GoneError(url)
    if answer.status in TRANSIENT:
        raise UnwillingError(answer.status, retry_after(answer.headers.get("Retry-After")))
    if answer.status != 200:
        raise DataError(
            f"{url}: the server answers {answer.status} {answer.reason}; check the bucket"
        )
