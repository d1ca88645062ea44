"""A till for the tests of payments: accounts, orders, time that passes, and everything that is written."""

from __future__ import annotations

from typing import Any

from onefold import Conflict, Database, Handle, Money, Tx, jobs, ledger, payments
from onefold.products.payments import Charge, Intent

PRICE = 4_500
KEEP_MS = 600_000
PAYEE = "box-office"
CLEARING, UNCLAIMED, DISPUTED = (f"payments/fake/EUR/{name}" for name in ("clearing", "unclaimed", "disputed"))


def eur(minor: int) -> Money:
    return Money(minor, "EUR")


def open_till(tx: Tx, *, kind: Any = "unlimited") -> None:
    payments.open_accounts(tx, "fake", currency="EUR")
    ledger.open_account(tx, PAYEE, currency="EUR", kind=kind)


def create(
    tx: Tx, id: str = "pay_1", *, minor: int = PRICE, capture: Any = "automatic", keep_ms: int = KEEP_MS,
    reference: str = "order/1",
) -> Intent:  # fmt: skip
    return payments.create(
        tx, id, provider="fake", amount=eur(minor), payee=PAYEE, keep_ms=keep_ms, reference=reference, capture=capture
    )


def pay(tx: Tx, id: str = "pay_1", **fields: Any) -> Intent:
    """tx1: the intent, and the job that asks for it."""
    create(tx, id, **fields)
    return payments.authorise(tx, id, method="tok_visa")


def ship(tx: Tx, intent: Intent) -> None:
    """What belongs to a payment: an order, once for each reference."""
    if tx.total(intent.reference):
        raise Conflict("It is sold already.", code="sold")
    tx.add(intent.reference, 1)


def has_order(tx: Tx, intent: Intent) -> bool:
    return tx.total(intent.reference) == 1


def charge(state: Any, id: str = "pay_1", *, minor: int = PRICE, taken: int | None = None, **fields: Any) -> Charge:
    captured = (minor if taken is None else taken) if state == "captured" else 0
    return Charge(id, state, "EUR", minor, captured, **fields)


def observe(tx: Tx, seen: Charge) -> Intent:
    """tx2."""
    return payments.observe(tx, "fake", seen, on_paid=ship)


def age(db: Handle, ms: int) -> None:
    """Let `ms` pass for all that waits for a time; the same on both engines, whoever has the clock."""

    def back(tx: Tx) -> None:
        tx.run(
            """UPDATE onefold.payment_intents
               SET created_at_ms = created_at_ms - :ms, expires_at_ms = expires_at_ms - :ms WHERE space = :space""",
            ms=ms,
        )
        tx.run("UPDATE onefold.ledger_pendings SET expires_at_ms = expires_at_ms - :ms WHERE space = :space", ms=ms)
        tx.run("UPDATE onefold.jobs_scheduled SET at_ms = at_ms - :ms WHERE space = :space", ms=ms)

    db.run(back)


def posted(db: Handle, account: str = PAYEE) -> int:
    return db.run(ledger.balance, account).posted.minor


def pending_in(db: Handle, account: str = PAYEE) -> int:
    return db.run(ledger.balance, account).pending_in.minor


def settles(db: Handle) -> list[Any]:
    """The jobs that wait."""
    return [job.kind for state in ("ready", "scheduled") for job in db.run(jobs.list_jobs, state=state).items]


def written(db: Database) -> dict[str, list[Any]]:
    """All rows of all tables that payments write, in this space."""

    def read(tx: Tx) -> dict[str, list[Any]]:
        tables = ("payment_intents", "payment_refunds", "payment_callbacks", "ledger_transfers", "ledger_pendings",
                  "ledger_balances", "events", "jobs_ready", "jobs_scheduled", "counter_deltas", "counter_totals")  # fmt: skip
        return {
            table: sorted(map(repr, tx.all(f"SELECT * FROM onefold.{table} WHERE space = :space")))  # noqa: S608
            for table in tables
        }

    return db.run(read)
