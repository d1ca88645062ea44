"""Balance rows: the only place where a limited account's money changes, each change under its lock.

Locks are taken in one order: balance rows by name, then rows of `ledger_pendings`.
"""

from __future__ import annotations

from typing import NoReturn

from onefold.core.errors import Conflict
from onefold.engine.tx import Tx
from onefold.products.ledger.records import BALANCE_MINOR_MAX, counter_of

RELEASE_MAX = 200  # Lapsed reservations per statement.


def move(tx: Tx, *, debit: str, credit: str, minor: int, debit_limited: bool, credit_limited: bool) -> None:
    """Take from one account and give to the other, limited ones in the order of their names."""
    if credit_limited and debit_limited and credit < debit:
        give(tx, credit, minor)
        take(tx, debit, minor)
        return
    if debit_limited:
        take(tx, debit, minor)
    if credit_limited:
        give(tx, credit, minor)
    if not debit_limited:
        count(tx, debit, -minor)
    if not credit_limited:
        count(tx, credit, minor)


def take(tx: Tx, account: str, minor: int) -> None:
    """Take available funds; Conflict when there are not enough."""
    for _ in (1, 2):
        row = tx.one(
            """UPDATE onefold.ledger_balances SET posted = posted - :minor
               WHERE space = :space AND account = :account AND posted - reserved + overdraft_minor >= :minor
               RETURNING posted""",
            account=account, minor=minor,
        )  # fmt: skip
        if row is not None:
            return
        _make_room(tx, account, minor)
    _insufficient(account, minor, None)


def reserve(tx: Tx, account: str, minor: int) -> None:
    """Reserve available funds for a pending transfer; Conflict when there are not enough."""
    for _ in (1, 2):
        row = tx.one(
            """UPDATE onefold.ledger_balances SET reserved = reserved + :minor
               WHERE space = :space AND account = :account AND posted - reserved + overdraft_minor >= :minor
               RETURNING posted""",
            account=account, minor=minor,
        )  # fmt: skip
        if row is not None:
            return
        _make_room(tx, account, minor)
    _insufficient(account, minor, None)


def settle(tx: Tx, account: str, *, reserved: int, taken: int) -> None:
    """End a reservation and take what was posted of it: room for that was made when it began.

    Too little is reserved only when the reservation has been released meanwhile. Then nothing is
    changed here, and deleting its pending row, which the caller does next, finds nothing and decides.
    """
    tx.run(
        """UPDATE onefold.ledger_balances SET posted = posted - :taken, reserved = reserved - :reserved
           WHERE space = :space AND account = :account AND reserved >= :reserved""",
        account=account, reserved=reserved, taken=taken,
    )  # fmt: skip


def give(tx: Tx, account: str, minor: int) -> None:
    """Give; Conflict when the balance would pass 10^15 minor units."""
    row = tx.one(
        """UPDATE onefold.ledger_balances SET posted = posted + :minor
           WHERE space = :space AND account = :account AND posted <= :most - :minor
           RETURNING posted""",
        account=account, minor=minor, most=BALANCE_MINOR_MAX,
    )  # fmt: skip
    if row is None:
        raise Conflict(
            "The account cannot hold that much.", code="balance_overflow", account=account, most=BALANCE_MINOR_MAX
        )


def count(tx: Tx, account: str, delta: int) -> None:
    """Change the balance of an unlimited account; nobody waits for anybody."""
    tx.add(counter_of(account), delta)


def lock(tx: Tx, account: str) -> int | None:
    """Lock the balance row; answer what is available by it, or None when there is no such row."""
    row = tx.one(
        """SELECT posted - reserved + overdraft_minor FROM onefold.ledger_balances
           WHERE space = :space AND account = :account {for_update}""",
        account=account,
    )
    return None if row is None else row[0]


def release_lapsed(tx: Tx, account: str, *, need: int | None) -> int | None:
    """Lock the balance row and release lapsed reservations until `need` is available, or all of them.

    Answers what is available then; None when the account has no balance row.
    """
    available = lock(tx, account)
    if available is None:
        return None
    # A statement of its own after the lock: only now does it see what others released before.
    while need is None or available < need:
        rows = tx.all(
            """DELETE FROM onefold.ledger_pendings WHERE (space, id) IN (
                   SELECT p.space, p.id FROM onefold.ledger_pendings p
                   WHERE p.space = :space AND p.debit = :account AND p.expires_at_ms <= :now_ms
                   ORDER BY p.expires_at_ms, p.amount, p.id LIMIT :most)
               RETURNING amount""",
            account=account, most=RELEASE_MAX,
        )  # fmt: skip
        if not rows:
            break
        released = sum(row[0] for row in rows)
        settle(tx, account, reserved=released, taken=0)
        available += released
    return available


def _make_room(tx: Tx, account: str, minor: int) -> None:
    available = release_lapsed(tx, account, need=minor)
    if available is None or available < minor:
        _insufficient(account, minor, available)


def _insufficient(account: str, minor: int, available: int | None) -> NoReturn:
    raise Conflict(
        "The account has not enough available.", code="insufficient_funds",
        account=account, needed=minor, available=available,
    )  # fmt: skip
