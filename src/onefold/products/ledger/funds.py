"""Balance rows: the only place where a limited account's money changes, each change under its lock.

Locks are taken in one order: balance rows by name, then rows of `ledger_pendings`.
"""

from __future__ import annotations

from typing import NoReturn

from onefold.core.errors import Conflict
from onefold.engine.tx import Row, Tx
from onefold.products.ledger.records import BALANCE_MINOR_MAX, counter_of

RELEASE_MAX = 200  # Lapsed reservations per statement.


def move(
    tx: Tx, id: str, *, debit: str, credit: str, minor: int, debit_limited: bool, credit_limited: bool
) -> None:  # fmt: skip
    """Take from one account and give to the other, limited ones in the order of their names."""
    if credit_limited and debit_limited and credit < debit:
        give(tx, id, credit, minor)
        take(tx, id, debit, minor)
        return
    if debit_limited:
        take(tx, id, debit, minor)
    if credit_limited:
        give(tx, id, credit, minor)
    if not debit_limited:
        count(tx, debit, -minor)
    if not credit_limited:
        count(tx, credit, minor)


def take(tx: Tx, id: str, account: str, minor: int) -> None:
    """Take available funds; Conflict when there are not enough."""
    for _ in (1, 2):
        row = tx.one(
            """UPDATE onefold.ledger_balances
               SET posted = posted - :minor, entries = entries + 1, previous_id = last_id, last_id = :id
               WHERE space = :space AND account = :account AND posted - reserved + overdraft_minor >= :minor
               RETURNING posted, entries, previous_id""",
            account=account, minor=minor, id=id,
        )  # fmt: skip
        if row is not None:
            _enter(tx, id, account, row)
            return
        _make_room(tx, account, minor)
    _insufficient(account, minor, None)


def give(tx: Tx, id: str, account: str, minor: int) -> None:
    """Give; Conflict when the balance would pass 10^15 minor units."""
    row = tx.one(
        """UPDATE onefold.ledger_balances
           SET posted = posted + :minor, entries = entries + 1, previous_id = last_id, last_id = :id
           WHERE space = :space AND account = :account AND posted <= :most - :minor
           RETURNING posted, entries, previous_id""",
        account=account, minor=minor, most=BALANCE_MINOR_MAX, id=id,
    )  # fmt: skip
    if row is None:
        raise Conflict(
            "The account cannot hold that much.", code="balance_overflow", account=account, most=BALANCE_MINOR_MAX
        )
    _enter(tx, id, account, row)


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


def capture(tx: Tx, id: str, account: str, *, reserved: int, taken: int) -> bool:
    """End a reservation and take what is posted of it: room for that was made when it began.

    False when too little is reserved: then it has been released meanwhile.
    """
    row = tx.one(
        """UPDATE onefold.ledger_balances
           SET posted = posted - :taken, reserved = reserved - :reserved,
               entries = entries + 1, previous_id = last_id, last_id = :id
           WHERE space = :space AND account = :account AND reserved >= :reserved
           RETURNING posted, entries, previous_id""",
        account=account, reserved=reserved, taken=taken, id=id,
    )  # fmt: skip
    if row is not None:
        _enter(tx, id, account, row)
    return row is not None


def release(tx: Tx, account: str, reserved: int) -> None:
    """End reservations. Their rows in `ledger_pendings` decide; see `capture` for the last condition."""
    tx.run(
        """UPDATE onefold.ledger_balances SET reserved = reserved - :reserved
           WHERE space = :space AND account = :account AND reserved >= :reserved""",
        account=account, reserved=reserved,
    )  # fmt: skip


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
    # Read after the lock, in a statement of its own: what it sees then is whole, and nobody else may
    # insert or delete a row of this account before we commit.
    while need is None or available < need:
        rows = tx.all(
            """SELECT id, amount FROM onefold.ledger_pendings
               WHERE space = :space AND debit = :account AND expires_at_ms <= :now_ms
               ORDER BY expires_at_ms, id LIMIT :most""",
            account=account, most=RELEASE_MAX,
        )  # fmt: skip
        if not rows:
            break
        tx.many(
            "DELETE FROM onefold.ledger_pendings WHERE space = :space AND id = :id", ({"id": row[0]} for row in rows)
        )
        released = sum(row[1] for row in rows)
        release(tx, account, released)
        available += released
    return available


def _enter(tx: Tx, id: str, account: str, row: Row) -> None:
    """Write the line of history that the balance row, just changed, now ends with."""
    tx.run(
        """INSERT INTO onefold.ledger_entries (space, transfer_id, account, number, balance, previous_id)
           VALUES (:space, :id, :account, :number, :balance, :previous_id)""",
        id=id, account=account, balance=row[0], number=row[1], previous_id=row[2],
    )  # fmt: skip


def _make_room(tx: Tx, account: str, minor: int) -> None:
    available = release_lapsed(tx, account, need=minor)
    if available is None or available < minor:
        _insufficient(account, minor, available)


def _insufficient(account: str, minor: int, available: int | None) -> NoReturn:
    raise Conflict(
        "The account has not enough available.", code="insufficient_funds",
        account=account, needed=minor, available=available,
    )  # fmt: skip
