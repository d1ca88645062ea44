"""Transfers: 128 callers on SQLite; hot and cold accounts on PostgreSQL."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from pathlib import Path

import onefold
from benches.harness import Sample, Size, Table, figure, interleaved, timed_crowd
from onefold import Database, Money, Tx, ledger
from onefold.testing.postgres import Cluster

NAME = "ledger"
PAGE = "src/onefold/products/ledger/README.md"
CALLERS = 128
BAR = 10_000
_numbers = itertools.count()


def run(size: Size) -> list[Table]:
    """Wallet to wallet (two locked rows), and wallet to a hot account (one)."""
    table = Table("Durable transfers a second", ("where", "callers", "what", "transfers /s", "p50 / p99 ms", "bar"))
    with tempfile.TemporaryDirectory() as folder:
        db = onefold.connect(Path(folder) / "bench.db")
        measure(size, table, db, "SQLite", CALLERS, size.of(150), bar=BAR)
        db.close()
    with Cluster(fsync=True) as cluster:
        url = cluster.create_database("bench")
        onefold.migrate(url)
        db = onefold.connect(url)
        measure(size, table, db, "PostgreSQL", 16, size.of(150), bar=None)
        db.close()
    return [table]


def measure(size: Size, table: Table, db: Database, where: str, callers: int, each: int, *, bar: int | None) -> None:
    """Cold pairs and one hot account, interleaved."""
    db.run(set_up, callers)
    cold, hot = interleaved(size.rounds, lambda: crowd(db, callers, each, hot=False), lambda: crowd(db, callers, each, hot=True))
    for what, taken, limit in (("wallet to wallet", cold, None), ("wallet to a hot account", hot, bar)):
        verdict = "-" if limit is None else f">= {limit:,}"
        if limit is not None and taken.rate < limit:
            verdict += " **missed**"
            table.missed += 1
        table.rows.append((where, str(callers), what, figure(taken.rate), f"{taken.p50_ms:.2f} / {taken.p99_ms:.2f}", verdict))
    table.notes.append(f"{where}: the hot account runs at {hot.rate / cold.rate:.2f} of the uncontended rate.")


def set_up(tx: Tx, callers: int) -> None:
    """Two wallets for each caller, filled, and one hot account."""
    ledger.open_account(tx, "bank", currency="EUR", kind="unlimited")
    ledger.open_account(tx, "revenue", currency="EUR", kind="unlimited")
    for caller in range(callers):
        for side in "ab":
            ledger.open_account(tx, f"wallet/{caller}/{side}", currency="EUR")
        ledger.transfer(tx, f"gift/{caller}", debit="bank", credit=f"wallet/{caller}/a", amount=Money(10**9, "EUR"))


def crowd(db: Database, callers: int, each: int, *, hot: bool) -> Sample:
    """Each caller moves one cent at a time out of its own wallet."""

    async def one(caller: int, _n: int) -> None:
        number = next(_numbers)
        credit = "revenue" if hot else f"wallet/{caller}/b"
        await db.arun(ledger.transfer, f"t/{number:012d}", debit=f"wallet/{caller}/a", credit=credit, amount=Money(1, "EUR"))

    return asyncio.run(timed_crowd(one, callers, each))
