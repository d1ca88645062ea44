"""Claims while another transaction holds a snapshot: dead rows cannot be cleaned away, and must not be walked over."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time

import psycopg

import onefold
from benches.harness import Size, Table, figure
from benches.messaging.jobs import WORKERS, Nothing, put_all
from onefold import Database, jobs
from onefold.testing.postgres import Cluster

NAME = "held"
PAGE = "src/onefold/messaging/jobs/README.md"
CHUNK = 10_000
CHUNKS_MIN = 6
MINUTES = 1
MINUTES_MAX = 60
BAR = 0.8


def run(size: Size, *, minutes: float = MINUTES) -> list[Table]:
    """Chunk after chunk through one queue of each of two databases in turn; one of them has a snapshot held."""
    if not 0 < minutes <= MINUTES_MAX:
        raise ValueError(f"minutes are more than 0 and at most {MINUTES_MAX}")
    table = Table(
        f"Jobs put and drained in chunks of 10,000 on PostgreSQL, 10 at a time, by one worker; {minutes:g} min for each "
        "of two databases, in turn",
        ("snapshot", "jobs", "chunks 2 to 4 /s", "last three chunks /s", "last : first", "minute by minute /s", "bar"),
    )
    with Cluster(fsync=True) as cluster, contextlib.ExitStack() as stack:
        urls = [cluster.create_database(name) for name in ("free", "held")]
        for url in urls:
            onefold.migrate(url)
        free, held = (Side(stack.enter_context(onefold.connect(url))) for url in urls)
        other = stack.enter_context(psycopg.connect(urls[1]))
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT count(*) FROM onefold.spaces").fetchone()
        asyncio.run(drain_in_turn(free, held, size.of(CHUNK), minutes * 60 * size.scale))
    drift = free.last / free.first
    missed = held.last / held.first < BAR * min(1.0, drift)
    table.missed += missed
    for what, side in (("none", free), ("held throughout", held)):
        verdict = f">= {BAR} of the other" + (" **missed**" if missed else "") if side is held else "-"
        table.rows.append((
            what, f"{len(side.rates) * size.of(CHUNK):,}", figure(side.first), figure(side.last),
            f"{side.last / side.first:.2f}", " ".join(figure(rate) for rate in by_minute(side.rates, size.of(CHUNK))), verdict,
        ))  # fmt: skip
    return [table]


class Side:
    """A database, and how fast its jobs went."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.rates: list[float] = []
        self._left = 0
        self._finished = asyncio.Event()

    async def handle(self, job: jobs.Run[Nothing]) -> None:
        """Nothing to do but to finish."""
        await job.finish()
        self._left -= 1
        if not self._left:
            self._finished.set()

    async def chunk(self, count: int) -> None:
        """Put so many jobs, and wait until the worker has finished them."""
        self._left = count
        self._finished.clear()
        begun = time.perf_counter()
        for start in range(0, count, 1_000):
            await self.db.arun(put_all, min(1_000, count - start))
        await asyncio.wait_for(self._finished.wait(), 600)
        self.rates.append(count / (time.perf_counter() - begun))

    @property
    def first(self) -> float:
        """The rate of the first chunks, without the very first, which warms up."""
        return statistics.median(self.rates[1:4])

    @property
    def last(self) -> float:
        """The rate of the last chunks."""
        return statistics.median(self.rates[-3:])


async def drain_in_turn(free: Side, held: Side, chunk: int, seconds: float) -> None:
    """A chunk each, until the work of the slower side has taken so long; at least six chunks."""
    async with (
        jobs.Worker(free.db, io={Nothing: free.handle}, concurrency=WORKERS),
        jobs.Worker(held.db, io={Nothing: held.handle}, concurrency=WORKERS),
    ):
        while len(held.rates) < CHUNKS_MIN or sum(chunk / rate for rate in held.rates) < seconds:
            await free.chunk(chunk)
            await held.chunk(chunk)


def by_minute(rates: list[float], chunk: int) -> list[float]:
    """The median rate of the chunks that ended within each minute of work."""
    minutes: dict[int, list[float]] = {}
    worked_s = 0.0
    for rate in rates:
        worked_s += chunk / rate
        minutes.setdefault(int(worked_s // 60), []).append(rate)
    return [statistics.median(minute) for minute in minutes.values()]
