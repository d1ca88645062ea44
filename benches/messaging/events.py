"""Appends of single events beside the `eventsourcing` library, on both engines."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from pathlib import Path

import msgspec

import onefold
from benches import peers
from benches.harness import (
    COMPARISON,
    Sample,
    Size,
    Table,
    fdatasync_ms,
    figure,
    interleaved,
    row,
    sample,
    timed,
    timed_crowd,
)
from onefold import Database, events
from onefold.testing.postgres import Cluster

NAME = "events"
PAGE = "src/onefold/messaging/events/README.md"
CALLERS = 16


@events.kind("bench.order.placed")
class Placed(msgspec.Struct, frozen=True):
    """What is appended."""

    order: str


def run(size: Size) -> list[Table]:
    """One synchronous caller, then sixteen at once: tasks here, threads there."""
    one = Table("One event per transaction, one synchronous caller, against `eventsourcing`", COMPARISON)
    many = Table("The same, 16 callers at once (tasks; the peer has threads)", COMPARISON)
    with tempfile.TemporaryDirectory() as folder:
        db = onefold.connect(Path(folder) / "bench.db")
        with peers.eventsourcing_sqlite(Path(folder)) as peer:
            mine = pair(size, "SQLite", db, peer, one, many, bars=(1.0, 5.0))
        rate = 1_000 / fdatasync_ms(Path(folder))
        share = mine.rate / rate
        verdict = "" if share >= 0.7 else ", **missed**"
        one.missed += share < 0.7
        one.notes.append(f"The disk's own fdatasync rate is {figure(rate)}/s: {share:.2f} of it (bar: 0.7{verdict}).")
        db.close()
    with Cluster(fsync=True) as cluster:
        url = cluster.create_database("bench")
        onefold.migrate(url)
        db = onefold.connect(url)
        with peers.eventsourcing_postgres(url) as peer:
            pair(size, "PostgreSQL", db, peer, one, many, bars=(1.0, 2.5))
        db.close()
    return [one, many]


def pair(
    size: Size, what: str, db: Database, peer: peers.EventRecorder, one: Table, many: Table, *, bars: tuple[float, float]
) -> Sample:
    """Both comparisons on one engine; answers our rate for one caller."""
    count = size.of(3_000)
    mine, theirs = interleaved(size.rounds, lambda: timed(lambda n: append(db, 0, n), count), lambda: timed(lambda n: peer.insert(0), count))
    row(one, what, mine, theirs, bar=bars[0])
    each = size.of(500)
    ours, others = interleaved(size.rounds, lambda: crowd(db, each), lambda: threads(peer, each))
    row(many, what, ours, others, bar=bars[1])
    return mine


def append(db: Database, caller: int, n: int) -> None:
    """One event, its own transaction."""
    db.run(events.append, f"order/{caller}", Placed(order=f"order-{n}"))


def crowd(db: Database, each: int) -> Sample:
    """Sixteen tasks, a stream each."""
    return asyncio.run(
        timed_crowd(lambda caller, n: db.arun(events.append, f"order/{caller}", Placed(order=f"order-{n}")), CALLERS, each)
    )


def threads(peer: peers.EventRecorder, each: int) -> Sample:
    """Sixteen threads, a stream each."""
    laps: list[float] = []

    def caller(number: int) -> None:
        for _ in range(each):
            before = time.perf_counter()
            peer.insert(number)
            laps.append(time.perf_counter() - before)

    started = time.perf_counter()
    running = [threading.Thread(target=caller, args=(number,)) for number in range(CALLERS)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sample(laps, time.perf_counter() - started)
