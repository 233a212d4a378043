"""Fetches the articles of PMC's bucket: what is new or changed since the last run, into large parts.

The inventory says which article versions there are and in which state; the metadata of those that are new or changed,
whether the config asks for them; only then is their XML fetched. What the bucket or the config no
longer has is withdrawn by a record of its own, as nothing in a finished part is ever changed.
"""

from __future__ import annotations

import asyncio
import heapq
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from data_prep.download.inventory import HashCache, failed_row, inspect_files
from data_prep.download.pmc.articles import (
    FETCHED,
    NOT_WANTED,
    TOO_LARGE,
    WITHDRAWN,
    WITHOUT_XML,
    Articles,
    make_plan,
    part_name,
    read_articles,
)
from data_prep.download.pmc.client import BucketClient, GoneError, TooLargeError
from data_prep.download.pmc.inventory import STALE_DAYS, age_in_days, read_newest
from data_prep.download.pmc.layout import (
    Metadata,
    are_wanted,
    count_unwanted,
    key_of,
    metadata_key,
    name_of,
    read_metadata,
)
from data_prep.download.pmc.writer import PartWriter, Row
from data_prep.download.transfer import BrokenError, Patience
from data_prep.errors import DataError
from data_prep.progress import console
from data_prep.source_config import Source
from data_prep.sources.xml_stream import xml_text

Rows = list[dict[str, Any]]

HASHING = 4  # threads that read parts anew: as many as keep a disk busy
# Failures with no success between them that mean the bucket, not the article; one a connection at least.
HOPELESS = 20
MOST_FAILURES = 10_000  # that are named, of some 8 million articles
ARTICLE_BYTES = 24_000  # in a part: 66 articles of PMC and PLOS, 131 KB of XML each, measured
AVERAGED = 10_000  # articles asked about, from which on their own average is the better guess


@dataclass(order=True)
class Outcome:
    """What became of one article: its record for the part, if any, and its row; or why it could not be had."""

    key: int
    record: dict[str, Any] | None = field(default=None, compare=False)
    row: Row | None = field(default=None, compare=False)
    failure: str | None = field(default=None, compare=False)
    fault: Exception | None = field(default=None, compare=False)  # of ours, which ends the run


def fetch(
    title: str, source: Source, folder: Path, previous: Rows, patience: Patience
) -> tuple[Rows, set[str]]:
    """Bring the parts in `folder/files` up to date with the bucket; their manifest rows, and the new parts' names.

    An article that cannot be had has a row with the reason. Raises DataError where there is no usable
    inventory.
    """
    bucket = source.bucket
    assert bucket is not None
    (folder / "files").mkdir(parents=True, exist_ok=True)
    cache = HashCache(folder / "hashes.jsonl")
    known, parts = read_articles(folder, cache)
    inventory = read_newest(bucket, folder / "inventory", patience)
    plan = make_plan(known, inventory, bucket, source.max_article_bytes)
    console.print(
        f"{title}: {len(inventory.keys):,} articles in the inventory of {inventory.stamp}, {len(plan.fetch):,} to "
        f"ask for, {len(plan.withdraw):,} to withdraw",
        highlight=False,
        soft_wrap=True,
    )
    if (age := age_in_days(inventory.stamp)) > STALE_DAYS:
        console.print(
            f"{title}: the newest inventory is {age:.0f} days old, newer articles are unknown; "
            "PMC makes one a day: python -m data_prep sources check CONFIG",
            soft_wrap=True,
        )
    _warn_of_little_space(title, folder / "files", len(plan.fetch), len(known.key))
    run = _Run(title, source, folder, known, patience)
    del inventory
    for key in plan.withdraw.tolist():
        run.withdraw(key)
    run.writer.finish()
    try:
        asyncio.run(run.fetch_all(run.failed_last(plan.fetch, previous)))
    finally:
        run.writer.abandon()
    for name, sha256 in run.writer.written.items():
        cache.remember(name, folder / "files" / name, sha256)
    names = sorted({*map(part_name, parts), *run.writer.written})
    rows = inspect_files(folder / "files", names, cache, HASHING)[0]
    rows += [failed_row(name, reason) for name, reason in run.failures.items()]
    if tally := +run.tally:
        counts = ", ".join(f"{name}: {number:,}" for name, number in sorted(tally.items()))
        console.print(f"{title}: {counts}", highlight=False, soft_wrap=True)
    return rows, set(run.writer.written)


def _warn_of_little_space(title: str, files: Path, articles: int, known: int) -> None:
    """Say so where the disk looks too small: no list has the sizes of the articles, so this is an estimate."""
    here = sum(path.stat().st_size for path in files.iterdir())
    needed = articles * (here / known if known >= AVERAGED else ARTICLE_BYTES)
    free = shutil.disk_usage(files).free
    if needed > free:
        console.print(
            f"{title}: about {needed / 1e9:.0f} GB to fetch, {free / 1e9:.0f} GB free in {files}; make room "
            "or set raw to a larger disk (a run that fills the disk ends, and the same command goes on)",
            highlight=False,
            soft_wrap=True,
        )


class _Run:
    """One run's fetching: what it writes to and what it counts."""

    def __init__(
        self, title: str, source: Source, folder: Path, known: Articles, patience: Patience
    ):
        assert source.bucket is not None
        self.bucket = source.bucket
        self.writer = PartWriter(folder, self.bucket.part_bytes)
        self.tally: Counter[str] = Counter()
        self.failures: dict[str, str] = {}
        self._title = title
        self._most_bytes = source.max_article_bytes
        self._known = known
        self._patience = patience

    def failed_last(self, keys: np.ndarray, previous: Rows) -> np.ndarray:
        """The keys, those that failed in the last run behind the others and failed until they are had.

        Enough of them in a row would otherwise end every run before it comes to what is new.
        """
        failed = {key_of(row["name"]): row["reason"] for row in previous if row["state"] != "ok"}
        failed.pop(None, None)
        again = np.isin(keys, np.array(list(failed), np.uint64))
        self.failures |= {name_of(key): failed[key] for key in keys[again].tolist()}
        return np.concatenate([keys[~again], keys[again]])

    def withdraw(self, key: int) -> None:
        """Take back an article that an earlier part has."""
        place = self._known.key.searchsorted(np.uint64(key))  # an int would have all keys converted
        state, traits = int(self._known.state[place]), int(self._known.traits[place])
        self.writer.write(_tombstone(key), (key, state, WITHDRAWN, traits, 0))
        self.tally["withdrawn"] += 1
        if self.writer.is_full:
            self.writer.finish()

    async def fetch_all(self, keys: np.ndarray) -> None:
        """Fetch the articles, many at a time; their parts are finished one after the other."""
        if not len(keys):
            return
        results: asyncio.Queue[Outcome] = asyncio.Queue(self.bucket.connections)
        left = map(int, keys)
        async with BucketClient(self.bucket, self._patience) as client:
            workers = [
                asyncio.create_task(self._work(client, left, results))
                for _ in range(min(self.bucket.connections, len(keys)))
            ]
            try:
                await self._collect(len(keys), results, workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _work(
        self, client: BucketClient, keys: Iterator[int], results: asyncio.Queue[Outcome]
    ) -> None:
        for key in keys:
            try:
                outcome = await self._article(client, key)
            except GoneError:
                # The inventory lags the bucket: the next one will not have it, or the bucket will.
                self.tally["listed, but not there"] += 1
                outcome = Outcome(key)
            except DataError as error:
                outcome = Outcome(key, failure=str(error))
            except Exception as error:
                outcome = Outcome(key, fault=error)
            await results.put(outcome)

    async def _article(self, client: BucketClient, key: int) -> Outcome:
        """Metadata, then XML where they ask for it; again where the one does not fit the other."""
        name = name_of(key)
        failures = 0
        while True:
            content, md5 = await client.get(metadata_key(name))
            state, metadata = int(md5[:16], 16), read_metadata(content, name)
            try:
                return await self._chosen(client, key, state, metadata)
            except BrokenError as error:  # the article changed between the two
                failures += 1
                if failures >= self._patience.attempts:
                    raise DataError(
                        f"{metadata.xml_key}: {error}, {failures} times in a row"
                    ) from error
                await asyncio.sleep(self._patience.pause(failures, None))

    async def _chosen(
        self, client: BucketClient, key: int, state: int, metadata: Metadata
    ) -> Outcome:
        def outcome(became: int, size: int = 0, **record: Any) -> Outcome:
            whole = {"key": name_of(key), "about": metadata.record, **record} if record else None
            return Outcome(key, whole, (key, state, became, metadata.traits, min(size, 2**32 - 1)))

        if not are_wanted(np.array(metadata.traits), self.bucket):
            count_unwanted(metadata.traits, self.bucket, self.tally)
            return self._taken_back(key, outcome(NOT_WANTED))
        if metadata.xml_key is None:
            self.tally["without XML"] += 1
            return self._taken_back(key, outcome(WITHOUT_XML))
        try:
            xml, md5 = await client.get(metadata.xml_key, self._most_bytes)
        except TooLargeError as error:
            self.tally["larger than max_article_bytes"] += 1
            reason = f"too large: {error.size} bytes, max_article_bytes is {self._most_bytes}"
            return outcome(TOO_LARGE, error.size, broken=reason)
        if metadata.xml_md5 not in (None, md5):
            raise BrokenError(f"its MD5 is {md5}, the article's metadata say {metadata.xml_md5}")
        self.tally["fetched"] += 1
        self.tally["fetched without license_code"] += "license_code" not in metadata.record
        try:
            return outcome(FETCHED, len(xml), xml=xml_text(xml))
        except (UnicodeError, LookupError) as error:
            return outcome(FETCHED, len(xml), broken=f"unknown encoding: {error}")

    def _taken_back(self, key: int, outcome: Outcome) -> Outcome:
        """The outcome for an article that is not wanted, with a withdrawal where a version of it is here."""
        if self._known.has_article(key) and outcome.row is not None:
            self.tally["withdrawn"] += 1
            state, became, traits = outcome.row[1:4]
            became = WITHDRAWN if became == NOT_WANTED else became
            return Outcome(key, _tombstone(key), (key, state, became, traits, 0))
        return outcome

    async def _collect(
        self, total: int, results: asyncio.Queue[Outcome], workers: list[asyncio.Task[None]]
    ) -> None:
        """Write what comes in, nearly in the order of the keys: no article waits for a slow one for long."""
        waiting: list[Outcome] = []
        began, hopeless = time.monotonic(), 0
        with _bar() as bar:
            task = bar.add_task(self._title, total=total, rate="")
            progress = ""
            for done in range(1, total + 1):
                outcome = await results.get()
                if outcome.fault:
                    raise outcome.fault
                if outcome.failure:
                    self._note_failure(outcome.key, outcome.failure)
                    hopeless += 1
                    if hopeless >= max(HOPELESS, self.bucket.connections):
                        self._give_up(total - done, outcome.failure)
                        break
                else:
                    hopeless = 0
                    self.failures.pop(name_of(outcome.key), None)
                    heapq.heappush(waiting, outcome)
                rate = done / max(time.monotonic() - began, 1e-3)
                bar.update(task, completed=done, rate=f"{rate:,.0f}/s")
                left = (total - done) / rate / 3600
                progress = f"{done:,} of {total:,} articles, {rate:,.0f}/s, {left:.1f} h left"
                if len(waiting) > self.bucket.connections:
                    await self._write(heapq.heappop(waiting), progress)
            while waiting:
                await self._write(heapq.heappop(waiting), progress)
        await asyncio.to_thread(self.writer.finish)

    async def _write(self, outcome: Outcome, progress: str) -> None:
        if outcome.row is None:
            return
        self.writer.write(outcome.record, outcome.row)
        if self.writer.is_full:
            await asyncio.to_thread(
                self.writer.finish
            )  # reads the whole part: meanwhile others arrive
            if not console.is_terminal:
                console.print(f"{self._title}: {progress}", highlight=False, soft_wrap=True)

    def _note_failure(self, key: int, reason: str) -> None:
        name = name_of(key)
        if name in self.failures or len(self.failures) < MOST_FAILURES:
            self.failures[name] = reason
        else:
            self.tally["failed and not named"] += 1
            self.failures["articles"] = f"{MOST_FAILURES:,} and more failed, as this one: {reason}"

    def _give_up(self, left: int, reason: str) -> None:
        self.failures["articles"] = (
            f"stopped with {left:,} articles to go, as too many failed ({reason}); the same command goes on"
        )


def _tombstone(key: int) -> dict[str, Any]:
    return {"key": name_of(key), "withdrawn": True}


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
