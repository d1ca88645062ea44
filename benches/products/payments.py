"""Payments through the fake provider, a process of its own: intent, job, call, money, order."""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path

import onefold
from benches.harness import Sample, Size, Table, figure, median, sample
from onefold import Database, Money, Tx, jobs, ledger, payments
from onefold.products.payments import Intent
from onefold.testing.postgres import Cluster
from onefold.testing.provider import FakeProvider

NAME = "payments"
PAGE = "src/onefold/products/payments/README.md"
COUNT = 500
CONCURRENCY = 32
WAIT_S = 120.0
_numbers = itertools.count()


def run(size: Size) -> list[Table]:
    """Each engine with a provider of its own, faultless, whose record is on the disk as well."""
    table = Table(
        "Payments a second, from the first transaction to the order in the second",
        ("engine", "what", "/s", "p50 / p99 ms"),
    )
    with tempfile.TemporaryDirectory() as folder, Cluster(fsync=True) as cluster:
        url = cluster.create_database("bench")
        onefold.migrate(url)
        for engine, where in (("SQLite", str(Path(folder) / "bench.db")), ("PostgreSQL", url)):
            home = Path(folder) / engine
            home.mkdir()
            with onefold.connect(where) as db, FakeProvider(home) as fake, fake.connect() as provider:
                db.run(open_till)
                asked = [ask(db, size) for _ in range(size.rounds)]
                table.rows.append((engine, "one caller: intent and job", *shown(median(asked))))
                paid = [settle(db, provider, size) for _ in range(size.rounds)]
                table.rows.append((engine, f"through the provider, {CONCURRENCY} calls at once", figure(median(paid).rate), "-"))
    table.notes.append("The provider answers from Python threads on the same machine, and commits each charge.")
    return [table]


def shown(taken: Sample) -> tuple[str, str]:
    """Rate and quantiles."""
    return figure(taken.rate), f"{taken.p50_ms:.2f} / {taken.p99_ms:.2f}"


def open_till(tx: Tx) -> None:
    """The accounts."""
    payments.open_accounts(tx, "fake", currency="EUR")
    ledger.open_account(tx, "box-office", currency="EUR", kind="unlimited")


def pay(tx: Tx, id: str) -> None:
    """The first transaction."""
    payments.create(tx, id, provider="fake", amount=Money(4_500, "EUR"), payee="box-office", keep_ms=3_600_000, reference=id)
    payments.authorise(tx, id, method="tok_visa")


def ship(tx: Tx, intent: Intent) -> None:
    """What belongs to a payment in the second."""
    tx.add("orders", 1)


def ask(db: Database, size: Size) -> Sample:
    """Record intents, one after the other; nobody works on them yet."""
    laps = []
    for _ in range(size.of(COUNT // 4)):
        before = time.perf_counter()
        db.run(pay, f"pay_{next(_numbers):012d}")
        laps.append(time.perf_counter() - before)
    return sample(laps, sum(laps))


def settle(db: Database, provider: payments.HttpProvider, size: Size) -> Sample:
    """Let a worker ask for all that waits."""
    for _ in range(size.of(COUNT)):
        db.run(pay, f"pay_{next(_numbers):012d}")
    count = sum(row.count for row in db.run(jobs.stats))
    handlers = payments.handlers({"fake": provider}, on_paid=ship)
    started = time.perf_counter()
    with jobs.Worker(db, io=handlers, concurrency=CONCURRENCY) as worker:
        while worker.numbers().get("jobs.finished", 0) < count:
            if time.perf_counter() - started > WAIT_S:
                raise TimeoutError("the payments do not end")
            time.sleep(0.002)
    return Sample(count / (time.perf_counter() - started))
