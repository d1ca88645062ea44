"""A crowd that all wants the best seats: how often PostgreSQL makes it run again, at both isolations."""

from __future__ import annotations

import asyncio
import itertools
from typing import Literal

import onefold
from benches.harness import Size, Table, timed_crowd
from onefold import Database, Money, Retry, Tx, booking, ledger
from onefold.testing.postgres import Cluster

NAME = "crowd"
PAGE = "src/onefold/products/booking/README.md"
CALLERS = 8
BAR = 0.05  # For callers with shows of their own; one show for all is reported.
TTL_MS = 60_000
PRICE = {"Hall": Money(4_500, "EUR")}
_numbers = itertools.count(1)

Isolation = Literal["serializable", "read_committed"]


def run(size: Size) -> list[Table]:
    """`hold_best` alone, and composed with a transfer and `confirm`; undone each time, so the hall stays empty."""
    table = Table(
        f"The best two of 2,400 seats on PostgreSQL, {CALLERS} callers; each undoes it in a transaction of its own",
        ("what", "isolation", "shows", "again per commit", "gave up", "commits /s", "bar"),
    )
    with Cluster(fsync=True) as cluster:
        url = cluster.create_database("bench")
        onefold.migrate(url)
        with onefold.connect(url, pool_max=CALLERS + 2) as db:
            db.run(set_up)
            for composed in (False, True):
                for shows in (1, CALLERS):
                    for isolation in ("serializable", "read_committed"):
                        measure(size, table, db, isolation, composed=composed, shows=shows)
    return [table]


def measure(size: Size, table: Table, db: Database, isolation: Isolation, *, composed: bool, shows: int) -> None:
    """One closed loop, counted by the engine itself."""
    each = size.of(200)
    opened = [db.run(open_show) for _ in range(shows)]
    handle, undoing = db.options(isolation=isolation), db.options(isolation="read_committed")
    gave_up = 0

    async def one(caller: int, _n: int) -> None:
        nonlocal gave_up
        show, who = opened[caller % shows], f"buyer/{caller}"
        try:
            if composed:
                order = await handle.arun(purchase, show, who, next(_numbers))
                await undoing.arun(booking.cancel, order.id)
            else:
                held = await handle.arun(booking.hold_best, show, by=who, count=2, ttl_ms=TTL_MS)
                await undoing.arun(booking.release, held.id, by=who)
        except Retry:
            gave_up += 1

    before = again(db)
    taken = asyncio.run(timed_crowd(one, CALLERS, each))
    asked = CALLERS * each
    ratio = (again(db) - before) / max(1, asked - gave_up)
    missed = shows == CALLERS and ratio > BAR
    table.missed += missed
    table.rows.append((
        "hold, pay, confirm" if composed else "hold_best alone", isolation.replace("_", " ").upper(),
        "one" if shows == 1 else "one each", f"{ratio:.3f}", f"{gave_up} of {asked:,}",
        f"{taken.rate * (asked - gave_up) / asked:.0f}",
        (f"<= {BAR}" if shows == CALLERS else "-") + (" **missed**" if missed else ""),
    ))  # fmt: skip


def again(db: Database) -> int:
    """Attempts of the measured functions that were run again so far."""
    return sum(r["count"] for r in db.metrics()["retries"] if r["function"].endswith(("hold_best", "purchase")))


def set_up(tx: Tx) -> None:
    """Unlimited accounts: nobody waits for their rows."""
    for name in ("buyers", "till"):
        ledger.open_account(tx, name, currency="EUR", kind="unlimited")


def open_show(tx: Tx) -> str:
    """A show in a hall of its own."""
    venue = booking.add_venue(tx, "Hall", sections=[booking.grid("Hall", rows=60, seats=40)])
    return booking.add_show(tx, venue.id, title="Faust", starts_at_ms=tx.now_ms + 10**9, prices=PRICE).id


def purchase(tx: Tx, show: str, who: str, number: int) -> booking.Order:
    """Choose, pay and confirm in one transaction."""
    held = booking.hold_best(tx, show, by=who, count=2, ttl_ms=TTL_MS)
    ledger.transfer(tx, f"crowd/{number:09d}", debit="buyers", credit="till", amount=held.price)
    return booking.confirm(tx, held)
