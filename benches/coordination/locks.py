"""Locks: a pair of acquire and release, and a check in the transaction of a write; Redis is in engine/redis."""

from __future__ import annotations

import itertools

from benches.harness import RATES, Size, Table, both_engines, rates
from onefold import Database, Tx, locks

NAME = "locks"
PAGE = "src/onefold/coordination/locks/README.md"
_numbers = itertools.count()


def run(size: Size) -> list[Table]:
    """Both engines."""
    table = Table("Durable operations on locks; acquire + release are two transactions", RATES)
    with both_engines() as engines:
        for engine, db, callers in engines:
            rates(
                table, engine, "acquire + release", size, lambda n, db=db: pair(db, f"one/{n % 100}"),
                lambda caller, _n, db=db: apair(db, f"many/{caller}"), callers=callers, count=1_000,
            )
            lock = db.run(locks.acquire, "checked", owner="bench", ttl_ms=3_600_000)
            rates(
                table, engine, "check + a write", size, lambda n, db=db, lock=lock: db.run(guarded, lock),
                lambda caller, _n, db=db, lock=lock: db.arun(guarded, lock), callers=callers, count=1_000,
            )
    table.notes.append("Beside Redis and redis-py: see the engine's page.")
    return [table]


def pair(db: Database, name: str) -> None:
    """Take it and give it back."""
    db.run(locks.release, db.run(locks.acquire, name, owner="bench", ttl_ms=30_000))


async def apair(db: Database, name: str) -> None:
    """The same from a task."""
    await db.arun(locks.release, await db.arun(locks.acquire, name, owner="bench", ttl_ms=30_000))


def guarded(tx: Tx, lock: locks.Lock) -> None:
    """A write that lands only under the lock."""
    locks.check(tx, lock)
    tx.add(f"guarded/{next(_numbers) % 1_000}", 1)
