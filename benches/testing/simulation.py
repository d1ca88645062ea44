"""How fast scenarios are simulated. There is no peer: no other library steps a database's transactions."""

from __future__ import annotations

import statistics

from benches.harness import Size, Table
from onefold import OnefoldError, Tx, ledger, locks
from onefold.core.money import Money
from onefold.testing.simulation import Client, Faults, Postgres, Report, Simulation, explore

NAME = "simulation"
PAGE = "src/onefold/testing/README.md"
BAR = 10_000  # Transactions per second and core on SQLite.


def run(size: Size) -> list[Table]:
    """SQLite by transactions, PostgreSQL by statements at both levels."""
    table = Table("Simulated clients, three at a time", ("scenario", "simulator", "faults", "rate", "bar"))
    for scenario in (counter, mutex, transfers):
        for faults in (Faults.none(), Faults()):
            rates = []
            for _ in range(size.rounds):
                rates.append(explore(scenario, seeds=size.of(40), faults=faults).per_core_second)
            rate = statistics.median(rates)
            missed = rate < BAR
            table.missed += missed
            bar = f">= {BAR:,}{': missed' if missed else ''}"
            table.rows.append((
                scenario.__name__, "SQLite", "the usual" if faults != Faults.none() else "none",
                f"{rate:,.0f} transactions a second and core", bar,
            ))  # fmt: skip
    for isolation in ("serializable", "read_committed"):
        reports: list[Report] = [
            explore(counter, seeds=size.of(4), faults=Faults.none(), on=Postgres(isolation)) for _ in range(size.rounds)
        ]
        rate = statistics.median(report.steps / report.seconds for report in reports)
        table.rows.append(("counter", f"PostgreSQL, {isolation}", "none", f"{rate:,.0f} statements a second", ""))
    table.notes.append("SQLite by the processor time of the whole process, PostgreSQL by the clock on the wall.")
    return [table]


def counter(sim: Simulation) -> None:
    """The least that a transaction can be: one write."""

    def adder(client: Client) -> None:
        for _ in range(100):
            try_to(client, add)

    sim.clients(adder, 3)


def mutex(sim: Simulation) -> None:
    """Acquire and release."""

    def holder(client: Client) -> None:
        for _ in range(50):
            lock = try_to(client, locks.try_acquire, "door", owner=client.name, ttl_ms=10_000)
            if lock is not None:
                try_to(client, locks.release, lock)

    sim.clients(holder, 3)


def transfers(sim: Simulation) -> None:
    """Money between two wallets."""

    def open_bank(tx: Tx) -> None:
        for name in ("a", "b"):
            ledger.open_account(tx, name, currency="EUR", kind="unlimited")

    def payer(client: Client) -> None:
        for number in range(50):
            key = f"{client.name}/{client.incarnation}/{number}"
            try_to(client, ledger.transfer, key, debit="a", credit="b", amount=Money(1, "EUR"))

    sim.setup(open_bank)
    sim.clients(payer, 3)


def add(tx: Tx) -> None:
    """One statement."""
    tx.add("n", 1)


def try_to(client: Client, fn, *args, **kwargs):
    """Run it; what befalls it is no concern of a bench."""
    try:
        return client.run(fn, *args, **kwargs)
    except OnefoldError:
        return None
