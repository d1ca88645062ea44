"""Each operation with 100,000 and 1,000,000 rows beside itself with 10,000, on SQLite."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
from examples.boxoffice import wallets
from examples.boxoffice.purchase import purchase

import onefold
from benches.harness import Sample, Size, Table, timed
from benches.past import UNTIL_MS, remember
from onefold import Database, Money, Tx, booking, events, jobs, ledger, locks

NAME = "growth"
PAGE = "src/onefold/engine/README.md"
SIZES = (10_000, 100_000, 1_000_000)
BAR = 1.3
_numbers = itertools.count(1)

LOCKS = """INSERT INTO onefold.locks (space, name, owner, token, acquired_at_ms, expires_at_ms)
           {numbers} SELECT s.space, 'past/' || CAST(i AS TEXT), 'past', i + 1, 1600000000000, 4000000000000 FROM n, {space}"""


@events.kind("bench.grown")
class Grown(msgspec.Struct, frozen=True):
    """What is appended."""

    number: int


@jobs.kind("bench.grown")
class Job(msgspec.Struct, frozen=True):
    """What is queued and stays queued."""

    number: int


def run(size: Size) -> list[Table]:
    """All sizes are open at once and measured in turn, so that a slow moment hits all of them."""
    table = Table(
        "Median time of one call, one caller, durability everysec (no fsync to hide behind)",
        ("operation", *(f"{count:,} rows, us" for count in SIZES), "growth at 10x", "at 100x", "bar"),
    )
    with tempfile.TemporaryDirectory() as folder:
        databases = [grown(Path(folder) / f"{count}.db", size.of(count)) for count in SIZES]
        for what, operation in OPERATIONS.items():
            count = size.of(1_000)
            prepared = [operation(db, count) for db in databases]
            taken: list[list[Sample]] = [[] for _ in databases]
            for round_ in range(size.rounds):
                for runs, call in zip(taken, prepared, strict=True):
                    part = max(1, count // size.rounds)
                    runs.append(timed(lambda n, call=call, base=round_ * part: call(base + n), part))
            p50 = [sorted(sample.p50_ms for sample in runs)[len(runs) // 2] * 1_000 for runs in taken]
            ratios = [value / p50[0] for value in p50[1:]]
            missed = max(ratios) > BAR
            table.missed += missed
            table.rows.append((
                what, *(f"{value:.0f}" for value in p50), *(f"{ratio:.2f}" for ratio in ratios),
                f"<= {BAR}" + (" **missed**" if missed else ""),
            ))  # fmt: skip
        for db in databases:
            db.close()
    return [table]


def grown(path: Path, count: int) -> Database:
    """A box office with `count` purchases, locks and jobs in its past."""
    remember(path, count, ("count", LOCKS))
    db = onefold.connect(path, durability="everysec")
    for start in range(0, count, 5_000):
        db.run(put_past, start, min(start + 5_000, count))
    return db


def put_past(tx: Tx, start: int, end: int) -> None:
    """Jobs that nobody will run."""
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


def transfer(db: Database, count: int) -> Callable[[int], object]:
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
    shows = db.reader().run(booking.list_shows, from_ms=UNTIL_MS, limit=100).items
    held: list[tuple[str, str]] = []
    for n in range(count):
        buyer = f"grown-buyer-{next(_numbers)}"
        db.run(wallets.open_wallet, buyer)
        held.append((buyer, db.run(booking.hold_best, shows[n % len(shows)].id, by=buyer, count=2, ttl_ms=1_800_000).id))
    return lambda n: db.run(purchase, held[n][1], by=held[n][0], key=f"key-{held[n][0]}")


def hold(db: Database, count: int) -> Callable[[int], object]:
    """The best two seats."""
    shows = db.reader().run(booking.list_shows, from_ms=UNTIL_MS, limit=100).items
    return lambda n: db.run(booking.hold_best, shows[n % len(shows)].id, by=f"h-{next(_numbers)}", count=2, ttl_ms=1_800_000)


OPERATIONS: dict[str, Callable[[Database, int], Callable[[int], object]]] = {
    "lock + unlock": lock_pair,
    "put a job": put,
    "append an event": append,
    "transfer": transfer,
    "hold the best two seats": hold,
    "purchase": buy,
}
