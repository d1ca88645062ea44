"""How often PostgreSQL makes composed functions on disjoint keys run again, on fresh and on analysed tables."""

from __future__ import annotations

import asyncio
import itertools

import msgspec
import psycopg

import onefold
from benches.harness import Size, Table, timed_crowd
from onefold import Money, Tx, events, idempotency, jobs, ledger, locks
from onefold.testing.postgres import Cluster

NAME = "aborts"
PAGE = "src/onefold/engine/README.md"
CALLERS = 8
BAR = 0.05
_numbers = itertools.count(1)


@events.kind("bench.composed")
class Composed(msgspec.Struct, frozen=True):
    """An event."""

    number: int


@jobs.kind("bench.composed")
class Job(msgspec.Struct, frozen=True):
    """A job."""

    number: int


def run(size: Size) -> list[Table]:
    """Six blocks in one serializable transaction, keys of the caller's own."""
    table = Table(
        "Attempts that were run again per commit, SERIALIZABLE, 8 callers on disjoint keys",
        ("tables", "commits", "again per commit", "commits /s", "bar"),
    )
    with Cluster(fsync=True) as cluster:
        url = cluster.create_database("bench")
        onefold.migrate(url)
        measure(size, table, url, "fresh, never analysed")
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute("ANALYZE")
        measure(size, table, url, "analysed")
    return [table]


def measure(size: Size, table: Table, url: str, what: str) -> None:
    """One closed loop, counted by the engine itself."""
    each = size.of(300)
    with onefold.connect(url, pool_max=CALLERS + 2) as db:
        db.run(set_up)
        before = db.metrics()
        taken = asyncio.run(timed_crowd(lambda caller, _n: db.arun(composed, caller, next(_numbers)), CALLERS, each))
        numbers = db.metrics()
        again = total(numbers["retries"]) - total(before["retries"])
        commits = CALLERS * each
        ratio = again / commits
        missed = ratio > BAR
        table.missed += missed
        table.rows.append((what, f"{commits:,}", f"{ratio:.3f}", f"{taken.rate:.0f}", f"<= {BAR}" + (" **missed**" if missed else "")))


def total(counts: list[dict[str, int]]) -> int:
    """All functions together."""
    return sum(entry["count"] for entry in counts)


def set_up(tx: Tx) -> None:
    """Accounts for every caller; again and again does no harm."""
    ledger.open_account(tx, "bank", currency="EUR", kind="unlimited")
    for caller in range(CALLERS):
        ledger.open_account(tx, f"wallet/{caller}", currency="EUR")
        ledger.transfer(tx, f"gift/{caller}", debit="bank", credit=f"wallet/{caller}", amount=Money(10**9, "EUR"))


def composed(tx: Tx, caller: int, number: int) -> None:
    """A lock, a transfer, an event, a job, under an idempotency key."""

    def work() -> int:
        lock = locks.acquire(tx, f"composed/{caller}", owner="bench", ttl_ms=30_000)
        ledger.transfer(tx, f"t/{caller}/{number:09d}", debit=f"wallet/{caller}", credit="bank", amount=Money(1, "EUR"))
        events.append(tx, f"composed/{caller}-{number}", Composed(number=number))
        jobs.put(tx, Job(number=number))
        locks.release(tx, lock)
        return number

    idempotency.once(tx, f"key-{caller}-{number}", work, scope=f"bench {caller}", request=number)


