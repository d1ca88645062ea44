"""Each operation with 100,000 and 1,000,000 rows beside itself with 10,000, on both engines."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psycopg
from examples.boxoffice import wallets
from examples.boxoffice.purchase import purchase

import onefold
from benches.harness import Sample, Size, Table, timed
from benches.past import SETTINGS, UNTIL_MS, remember
from onefold import Database, Money, Tx, booking, events, idempotency, jobs, ledger, locks
from onefold.messaging.jobs.attempts import Wanted
from onefold.messaging.jobs.leases import as_list, enlist
from onefold.testing.postgres import Cluster

NAME = "growth"
PAGE = "src/onefold/engine/README.md"
SIZES = (10_000, 100_000, 1_000_000)
BAR = 1.3
# PostgreSQL writes asynchronous commits out every 200 ms: a part of the calls must last longer.
CALLS = {"SQLite": 1_000, "PostgreSQL": 2_500}
PAGE_ROWS = 50
_numbers = itertools.count(1)

LOCKS = """INSERT INTO onefold.locks (space, name, owner, token, acquired_at_ms, expires_at_ms)
           {numbers} SELECT s.space, 'past/' || CAST(i AS TEXT), 'past', i + 1, 1600000000000, 4000000000000 FROM n, {space}"""
Operation = Callable[[Database, int], Callable[[int], object]]
"""Prepares a number of calls on a database, and answers the call."""


@events.kind("bench.grown")
class Grown(msgspec.Struct, frozen=True):
    """What is appended."""

    number: int


@jobs.kind("bench.grown")
class Job(msgspec.Struct, frozen=True):
    """What is queued and stays queued."""

    number: int


def run(size: Size) -> list[Table]:
    """All sizes of an engine are open at once and measured in turn, so that a slow moment hits all of them."""
    return [measured(size, engine, calls) for engine, calls in CALLS.items()]


def measured(size: Size, engine: str, calls: int) -> Table:
    """The table of one engine."""
    table = Table(
        f"Median time of one call on {engine}, one caller, durability everysec (no fsync to hide behind)",
        ("operation", *(f"{count:,} rows, us" for count in SIZES), "growth at 10x", "at 100x", "bar"),
    )
    with contextlib.ExitStack() as stack:
        databases = stack.enter_context(grown_sqlite(size) if engine == "SQLite" else grown_postgres(size))
        for what, operation in OPERATIONS.items():
            p50 = medians(size, databases, operation, size.of(calls))
            ratios = [value / p50[0] for value in p50[1:]]
            missed = max(ratios) > BAR
            table.missed += missed
            table.rows.append((
                what, *(f"{value:.0f}" for value in p50), *(f"{ratio:.2f}" for ratio in ratios),
                f"<= {BAR}" + (" **missed**" if missed else ""),
            ))  # fmt: skip
    return table


def medians(size: Size, databases: list[Database], operation: Operation, count: int) -> list[float]:
    """The median time of a call on each database, in microseconds."""
    part = max(1, count // size.rounds)
    prepared = [operation(db, part * size.rounds) for db in databases]
    taken: list[list[Sample]] = [[] for _ in databases]
    for round_ in range(size.rounds):
        for runs, call in zip(taken, prepared, strict=True):
            runs.append(timed(lambda n, call=call, base=round_ * part: call(base + n), part))
    return [sorted(sample.p50_ms for sample in runs)[len(runs) // 2] * 1_000 for runs in taken]


@contextlib.contextmanager
def grown_sqlite(size: Size) -> Iterator[list[Database]]:
    """A file for each size."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        yield [grown(stack, str(Path(folder) / f"{count}.db"), size.of(count)) for count in SIZES]


@contextlib.contextmanager
def grown_postgres(size: Size) -> Iterator[list[Database]]:
    """A database for each size, in one cluster; its statistics are up to date."""
    with Cluster(fsync=True, settings=SETTINGS) as cluster, contextlib.ExitStack() as stack:
        databases: list[Database] = []
        for count in SIZES:
            url = cluster.create_database(f"grown_{count}")
            onefold.migrate(url)
            databases.append(grown(stack, url, size.of(count)))
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE")
        yield databases


def grown(stack: contextlib.ExitStack, where: str, count: int) -> Database:
    """A box office with `count` purchases, locks and jobs in its past."""
    remember(where, count, ("count", LOCKS))
    db = stack.enter_context(onefold.connect(where, durability="everysec"))
    for start in range(0, count, 5_000):
        db.run(put_past, start, min(start + 5_000, count))
    return db


def put_past(tx: Tx, start: int, end: int) -> None:
    """Jobs that nobody has run yet."""
    jobs.put_many(tx, [Job(number=n) for n in range(start, end)])


def lock_pair(db: Database, _count: int) -> Callable[[int], object]:
    """acquire, then release."""

    def pair(n: int) -> None:
        lock = db.run(locks.acquire, f"bench/{n % 100}", owner="bench", ttl_ms=30_000)
        db.run(locks.release, lock)

    return pair


def put(db: Database, _count: int) -> Callable[[int], object]:
    """One more job."""
    return lambda n: db.run(jobs.put, Job(number=n))


def append(db: Database, _count: int) -> Callable[[int], object]:
    """One event on a new stream."""
    return lambda _n: db.run(events.append, f"grown/{next(_numbers)}", Grown(number=1))


def transfer(db: Database, _count: int) -> Callable[[int], object]:
    """One transfer between two of a hundred wallets."""

    def open_all(tx: Tx) -> None:
        for n in range(100):
            wallets.open_wallet(tx, f"grown-{n}")

    db.run(open_all)
    return lambda n: db.run(
        ledger.transfer, f"grown/{next(_numbers):012d}", debit=f"wallet/grown-{n % 100}",
        credit=f"wallet/grown-{(n + 1) % 100}", amount=Money(1, "EUR"),
    )  # fmt: skip


def buy(db: Database, count: int) -> Callable[[int], object]:
    """One purchase; what is bought is held before the clock starts."""
    shows = shows_to_come(db)
    held: list[tuple[str, str]] = []
    for n in range(count):
        buyer = f"grown-buyer-{next(_numbers)}"
        db.run(wallets.open_wallet, buyer)
        held.append((buyer, db.run(booking.hold_best, shows[n % len(shows)].id, by=buyer, count=2, ttl_ms=1_800_000).id))
    return lambda n: db.run(purchase, held[n][1], by=held[n][0], key=f"key-{held[n][0]}")


def hold(db: Database, _count: int) -> Callable[[int], object]:
    """The best two seats."""
    shows = shows_to_come(db)
    return lambda n: db.run(booking.hold_best, shows[n % len(shows)].id, by=f"h-{next(_numbers)}", count=2, ttl_ms=1_800_000)


def shows_to_come(db: Database) -> list[booking.Show]:
    """Those on sale."""
    return db.reader().run(booking.list_shows, from_ms=UNTIL_MS, limit=100).items


def claim_and_finish(db: Database, _count: int) -> Callable[[int], object]:
    """Claim one job of the many that wait, as a worker does, and finish it: two transactions."""
    loop = db.options(isolation="read_committed")
    loop.run(enlist, "grown", queues=("default",), kinds=("bench.grown",), lease_ms=3_600_000)
    low = 0

    def one(_n: int) -> None:
        nonlocal low
        wanted = Wanted(as_list(("bench.grown",)), None, [("default", (low, low, low, low, low))])
        (attempt,) = loop.run(jobs.claim, "grown", wanted, room=1)
        low = attempt.seq
        db.run(jobs.finish, attempt)

    return one


def list_waiting(db: Database, _count: int) -> Callable[[int], object]:
    """A page of waiting jobs from the middle of all of them."""
    middle = db.reader().run(a_job_amid)
    return lambda _n: db.reader().run(jobs.list_jobs, state="ready", after=middle, limit=PAGE_ROWS)


def a_job_amid(tx: Tx) -> str:
    """The id of the job that half of the others come before."""
    row = tx.one(
        """SELECT id FROM onefold.jobs_ready WHERE space = :space ORDER BY id
           LIMIT 1 OFFSET (SELECT count(*) / 2 FROM onefold.jobs_ready WHERE space = :space)"""
    )
    assert row is not None
    return str(row[0])


def once(db: Database, _count: int) -> Callable[[int], object]:
    """Something small, once, under a new key."""
    return lambda _n: db.run(idempotency.once, f"grown-{next(_numbers)}", int, scope="grown", request=None)


def read_stream(db: Database, _count: int) -> Callable[[int], object]:
    """The events of one past order."""
    streams = [event.stream for event in db.reader().run(events.read_category, "order", limit=100).items]
    return lambda n: db.reader().run(events.read_stream, streams[n % len(streams)])


def read_category(db: Database, _count: int) -> Callable[[int], object]:
    """A page of a category, from the middle of the log."""
    middle = db.reader().run(events.head) // 2
    return lambda n: db.reader().run(events.read_category, "order", after=middle + n, limit=PAGE_ROWS)


def read_all(db: Database, _count: int) -> Callable[[int], object]:
    """A page of everything, from the middle of the log."""
    middle = db.reader().run(events.head) // 2
    return lambda n: db.reader().run(events.read_all, after=middle + n, limit=PAGE_ROWS)


def history(db: Database, _count: int) -> Callable[[int], object]:
    """The last entries of the till, which takes part in every purchase."""
    return lambda _n: db.reader().run(ledger.history, wallets.TILL, limit=PAGE_ROWS)


def balance(db: Database, _count: int) -> Callable[[int], object]:
    """What is in the till."""
    return lambda _n: db.reader().run(ledger.balance, wallets.TILL)


def orders(db: Database, _count: int) -> Callable[[int], object]:
    """The orders of a buyer."""
    return lambda n: db.reader().run(booking.list_orders, by=f"buyer-{n % 20}p", limit=PAGE_ROWS)


def seat_map(db: Database, _count: int) -> Callable[[int], object]:
    """The map of a hall of 2,000 seats."""
    shows = shows_to_come(db)
    return lambda n: db.reader().run(booking.seat_map, shows[n % len(shows)].id)


OPERATIONS: dict[str, Operation] = {
    "lock + unlock": lock_pair,
    "put a job": put,
    "claim + finish a job": claim_and_finish,
    "list waiting jobs, from the middle": list_waiting,
    "append an event": append,
    "read a stream": read_stream,
    "read a category, from the middle": read_category,
    "read all events, from the middle": read_all,
    "once, under a new key": once,
    "transfer": transfer,
    "balance of the till": balance,
    "history of the till": history,
    "hold the best two seats": hold,
    "seat map": seat_map,
    "orders of a buyer": orders,
    "purchase": buy,
}
