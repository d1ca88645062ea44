"""A small bank for the tests of the ledger: who has what, time that passes, and an audit of everything."""

from __future__ import annotations

from onefold import Handle, Money, Tx, ledger

HOUR = 3_600_000
WALLETS = ("wallet/a", "wallet/b", "wallet/c", "wallet/d")


def eur(minor: int) -> Money:
    return Money(minor, "EUR")


def open_bank(tx: Tx, *, each: int = 1_000) -> None:
    """Four wallets with `each` cents, paid by the bank; a till that everybody pays into."""
    ledger.open_account(tx, "bank", currency="EUR", kind="unlimited")
    ledger.open_account(tx, "till", currency="EUR", kind="unlimited")
    for name in WALLETS:
        ledger.open_account(tx, name, currency="EUR")
        if each:
            ledger.transfer(tx, f"gift/{name}", debit="bank", credit=name, amount=eur(each))


def age(db: Handle, ms: int) -> None:
    """Let `ms` pass for what is pending in this space; the same on both engines, whoever has the clock."""

    def back(tx: Tx) -> None:
        tx.run(
            "UPDATE onefold.ledger_pendings SET expires_at_ms = expires_at_ms - :ms WHERE space = :space", ms=ms
        )

    db.run(back)


def posted(db: Handle, account: str) -> int:
    return db.run(ledger.balance, account).posted.minor


def available(db: Handle, account: str) -> int:
    money = db.run(ledger.balance, account).available
    assert money is not None
    return money.minor


def audited(tx: Tx, *, limit: int = 3) -> dict[str, int]:
    """Audit everything at one moment, page after page; answers the posted balances, which sum up to nothing."""
    sums: dict[str, int] = {}
    after: str | None = None
    while True:
        page = ledger.audit(tx, after=after, limit=limit)
        assert page.faults == []
        for currency, minor in page.sums.items():
            sums[currency] = sums.get(currency, 0) + minor
        after = page.after
        if after is None:
            break
    assert set(sums.values()) <= {0}, "debits do not equal credits"
    while True:
        page = ledger.audit_journal(tx, after=after, limit=250)
        assert page.faults == []
        after = page.after
        if after is None:
            break
    balances = {a.name: ledger.balance(tx, a.name) for a in ledger.list_accounts(tx, limit=1_000).items}
    for balance in balances.values():
        assert balance.available is None or balance.available.minor >= 0, "overdrawn"
    return {name: balance.posted.minor for name, balance in balances.items()}


def entries(db: Handle, account: str, *, limit: int = 7) -> list[ledger.Entry]:
    """The whole history, page by page."""
    found: list[ledger.Entry] = []
    after: str | None = None
    while True:
        page = db.run(ledger.history, account, after=after, limit=limit)
        found += page.items
        after = page.after
        if after is None:
            return found


def rows(db: Handle) -> list[list[tuple]]:
    """All rows of all tables of the ledger in this space, and its counters."""

    def read(tx: Tx) -> list[list[tuple]]:
        return [
            tx.all("SELECT * FROM onefold.ledger_accounts WHERE space = :space ORDER BY name"),
            tx.all("SELECT * FROM onefold.ledger_balances WHERE space = :space ORDER BY account"),
            tx.all("SELECT * FROM onefold.ledger_transfers WHERE space = :space ORDER BY id"),
            tx.all("SELECT * FROM onefold.ledger_entries WHERE space = :space ORDER BY transfer_id, account"),
            tx.all("SELECT * FROM onefold.ledger_pendings WHERE space = :space ORDER BY id"),
            [(name, tx.total(f"ledger/{name}")) for name in ("bank", "till")],
        ]

    return db.run(read)
