"""The whole purchase of the box office, in process, with a million orders present."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from pathlib import Path

from examples.boxoffice import season, wallets
from examples.boxoffice.purchase import purchase

import onefold
from benches.harness import Sample, Size, Table, figure, median, timed_crowd
from benches.past import UNTIL_MS, remember
from onefold import Database, Retry, Tx, booking
from onefold.testing.postgres import Cluster

NAME = "purchase"
PAGE = "examples/boxoffice/README.md"
BAR = 2_000
SEATS = 2
PRESENT = 1_000_000

_numbers = itertools.count(1)


def run(size: Size) -> list[Table]:
    """SQLite with the past present, then PostgreSQL."""
    table = Table(
        "Durable purchases in process: idempotency, hold checked, money, seats, order, event, job, webhook in one transaction",
        ("engine", "callers", "orders present", "what", "/s", "p50 / p99 ms", "bar"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.db"
        present = size.of(PRESENT)
        remember(path, present)
        db = onefold.connect(path)
        measure(size, table, db, "SQLite", 128, present, size.of(40), bar=BAR)
        db.close()
    with Cluster(fsync=True) as cluster:
        url = cluster.create_database("bench")
        onefold.migrate(url)
        db = onefold.connect(url)
        season.open_house(db)
        measure(size, table, db, "PostgreSQL", 16, 0, size.of(60), bar=None)
        db.close()
    return [table]


def measure(
    size: Size, table: Table, db: Database, engine: str, callers: int, present: int, each: int, *, bar: int | None
) -> None:
    """Several rounds: hold for everyone, then everyone buys."""
    holds: list[Sample] = []
    buys: list[Sample] = []
    for _ in range(size.rounds):
        hold, buy = asyncio.run(one_round(db, callers, each))
        holds.append(hold)
        buys.append(buy)
    for what, taken, limit in (("hold the best two seats", median(holds), None), ("purchase", median(buys), bar)):
        verdict = "-" if limit is None else f">= {limit:,}"
        if limit is not None and taken.rate < limit:
            verdict += " **missed**"
            table.missed += 1
        table.rows.append((engine, str(callers), f"{present:,}", what, figure(taken.rate), f"{taken.p50_ms:.1f} / {taken.p99_ms:.1f}", verdict))


async def one_round(db: Database, callers: int, each: int) -> tuple[Sample, Sample]:
    """Everyone's holds, measured, then everyone's purchases, measured; buyers and keys are all distinct."""
    shows = db.reader().run(booking.list_shows, from_ms=UNTIL_MS, limit=100).items
    buyers = [[f"buyer-{next(_numbers)}" for _ in range(each)] for _ in range(callers)]
    await asyncio.gather(*(db.arun(open_wallets, mine) for mine in buyers))
    held: list[list[str]] = [[""] * each for _ in range(callers)]
    chooser = db.options(isolation="read_committed")  # As its page advises; on SQLite it makes no difference.

    async def hold(caller: int, n: int) -> None:
        show = shows[(caller + n) % len(shows)]
        while True:
            try:
                taken = await chooser.arun(booking.hold_best, show.id, by=buyers[caller][n], count=SEATS, ttl_ms=1_800_000)
            except Retry:
                continue
            held[caller][n] = taken.id
            return

    async def buy(caller: int, n: int) -> None:
        answer = await db.arun(purchase, held[caller][n], by=buyers[caller][n], key=f"key-{buyers[caller][n]}")
        assert not answer.replayed

    return await timed_crowd(hold, callers, each), await timed_crowd(buy, callers, each)


def open_wallets(tx: Tx, buyers: list[str]) -> None:
    """A filled wallet for each."""
    for buyer in buyers:
        wallets.open_wallet(tx, buyer)
