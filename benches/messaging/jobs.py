"""20,000 no-op jobs, ten at a time, each finishing in its own fenced transaction; and how soon one starts."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import msgspec

import onefold
from benches import peers
from benches.harness import Sample, Size, Table, figure, interleaved, redis, sample
from onefold import Database, Tx, jobs
from onefold.testing.postgres import Cluster

NAME = "jobs"
PAGE = "src/onefold/messaging/jobs/README.md"
COUNT = 20_000
WORKERS = 10


@jobs.kind("bench.nothing")
class Nothing(msgspec.Struct, frozen=True):
    """A job that does nothing."""


@jobs.kind("bench.stamped")
class Stamped(msgspec.Struct, frozen=True):
    """A job that says when it was put."""

    put_ns: int


def run(size: Size) -> list[Table]:
    """Drain beside three peers, then latency."""
    drained = Table("Draining 20,000 no-op jobs, 10 at a time", ("engine", "jobs /s", "peer", "peer /s", "ratio", "bar"))
    started = Table("From enqueue to start, one job at a time", ("engine", "p50 / p99 ms", "bar p99"))
    rounds = min(size.rounds, 3)
    count = size.of(COUNT)
    with tempfile.TemporaryDirectory() as folder, redis() as port:
        path = Path(folder)
        db = onefold.connect(path / "bench.db")
        mine, huey, taskiq = interleaved(
            rounds, lambda: drain(db, count), lambda: peers.huey_drain(path, count), lambda: peers.taskiq_drain(port, count)
        )
        line(drained, "SQLite", mine, "Huey on SQLite, fsync", huey, 4.0)
        line(drained, "SQLite", mine, "Taskiq on a Redis stream, always", taskiq, 2.0)
        soon(started, "SQLite", db, size.of(1_000), 10.0)
        db.close()
    with Cluster(fsync=True) as cluster:
        ours, theirs = cluster.create_database("ours"), cluster.create_database("theirs")
        onefold.migrate(ours)
        db = onefold.connect(ours)
        few = max(1, count // 4)
        mine, peer = interleaved(rounds, lambda: drain(db, few), lambda: peers.procrastinate_drain(theirs, few))
        line(drained, "PostgreSQL", mine, "procrastinate, analysed tables", peer, 5.0)
        drained.notes.append(f"PostgreSQL drains {few:,} jobs, since the peer takes a minute for more.")
        soon(started, "PostgreSQL", db, size.of(1_000), 25.0)
        db.close()
    return [drained, started]


def line(table: Table, engine: str, mine: Sample, name: str, peer: Sample, bar: float) -> None:
    """One comparison."""
    ratio = mine.rate / peer.rate
    verdict = f">= {bar:g}x" + ("" if ratio >= bar else " **missed**")
    table.missed += ratio < bar
    table.rows.append((engine, figure(mine.rate), name, figure(peer.rate), f"{ratio:.2f}", verdict))


def put_all(tx: Tx, count: int) -> None:
    """`count` jobs in one transaction."""
    jobs.put_many(tx, [Nothing()] * count)


def drain(db: Database, count: int) -> Sample:
    """Put `count` jobs, then start a worker and wait until it has finished them."""
    for start in range(0, count, 1_000):
        db.run(put_all, min(1_000, count - start))
    left = count

    async def scenario() -> Sample:
        finished = asyncio.Event()

        async def nothing(job: jobs.Run[Nothing]) -> None:
            nonlocal left
            await job.finish()
            left -= 1
            if not left:
                finished.set()

        begun = time.perf_counter()
        async with jobs.Worker(db, io={Nothing: nothing}, concurrency=WORKERS):
            await asyncio.wait_for(finished.wait(), 600)
            return Sample(count / (time.perf_counter() - begun))

    return asyncio.run(scenario())


def soon(table: Table, engine: str, db: Database, count: int, bar_ms: float) -> None:
    """The time from put's commit being asked for to the handler's first line, worker in its own thread."""
    laps: list[float] = []

    async def scenario() -> None:
        ran = asyncio.Event()

        async def stamped(job: jobs.Run[Stamped]) -> None:
            laps.append((time.monotonic_ns() - job.args.put_ns) / 1e9)
            await job.finish()
            ran.set()

        async with jobs.Worker(db, io={Stamped: stamped}, concurrency=WORKERS):
            for _ in range(count):
                ran.clear()
                await db.arun(lambda tx: jobs.put(tx, Stamped(put_ns=time.monotonic_ns())))
                await asyncio.wait_for(ran.wait(), 60)

    asyncio.run(scenario())
    taken = sample(laps, sum(laps))
    verdict = f"< {bar_ms:g}" + ("" if taken.p99_ms < bar_ms else " **missed**")
    table.missed += taken.p99_ms >= bar_ms
    table.rows.append((engine, f"{taken.p50_ms:.2f} / {taken.p99_ms:.2f}", verdict))


