"""Ledger: money moves between two accounts, or not at all, and only once per id.

One row per transfer holds both sides, so debits equal credits at every commit. A limited
account's balance row decides whether it may give; unlimited accounts are counters that nobody
locks. Several transfers in one transaction happen together: no linking is needed.
"""

from __future__ import annotations

from typing import Any

from onefold.core.errors import Conflict, Invalid, NotFound, Retry
from onefold.core.money import Money
from onefold.engine.tx import Row, Tx, operation
from onefold.products.ledger import funds
from onefold.products.ledger.records import (
    TIMEOUT_MS_MAX,
    AccountName,
    Amount,
    Memo,
    PartOfIt,
    TimeoutMs,
    Transfer,
    TransferId,
    check_amount,
    check_sides,
    check_transfer,
)


@operation
def transfer(
    tx: Tx, id: TransferId, *, debit: AccountName, credit: AccountName, amount: Amount, memo: Memo = ""
) -> Transfer:
    """Move `amount` from the account `debit` to the account `credit`.

    Args:
        id: the idempotency key, 1 to 200 characters: the same id with the same fields answers the
            transfer made before. Sortable ids keep the table compact.
        debit: the account that gives; a limited one is locked until the end of the transaction.
        credit: the account that takes; the same.
        amount: 1 to 10^12 minor units, in the currency of both accounts.
        memo: for people, at most 500 characters.

    Raises:
        Invalid: an argument is out of range, the currencies differ (code "currency"), or the two accounts are one
            ("same_account").
        NotFound: there is no such account.
        Conflict: "insufficient_funds"; "balance_overflow"; "transfer_mismatch", the id was used for
            something else.
    """
    check_transfer(id, memo)
    check_sides(debit, credit)
    check_amount(amount)
    # Written first: the id is claimed before anything moves. The accounts are read by the same
    # statement: what they are never changes, so they need no lock.
    row = tx.one(
        """INSERT INTO onefold.ledger_transfers
               (space, id, kind, debit, credit, currency, amount, memo, at_ms, debit_limited, credit_limited)
           SELECT :space, :id, 'transfer', d.name, c.name, :currency, :amount, :memo, :now_ms, d.limited, c.limited
           FROM onefold.ledger_accounts d, onefold.ledger_accounts c
           WHERE d.space = :space AND d.name = :debit AND d.currency = :currency
             AND c.space = :space AND c.name = :credit AND c.currency = :currency
           ON CONFLICT DO NOTHING
           RETURNING debit_limited, credit_limited""",
        id=id, debit=debit, credit=credit, currency=amount.currency, amount=amount.minor, memo=memo,
    )  # fmt: skip
    wanted = Transfer(id, "transfer", debit, credit, amount, "posted", tx.now_ms, memo)
    if row is None:
        return _made_before(tx, wanted) or _refused(tx, wanted)
    funds.move(
        tx, id, debit=debit, credit=credit, minor=amount.minor, debit_limited=row[0], credit_limited=row[1]
    )  # fmt: skip
    return wanted


@operation
def try_transfer(tx: Tx, id: str, *, debit: str, credit: str, amount: Money, memo: str = "") -> Transfer | None:
    """`transfer`, or None when the funds do not suffice; nothing was written then."""
    try:
        with tx.savepoint():
            return transfer(tx, id, debit=debit, credit=credit, amount=amount, memo=memo)
    except Conflict as error:
        if error.code != "insufficient_funds":
            raise
        return None


@operation
def pend(
    tx: Tx, id: TransferId, *, debit: AccountName, credit: AccountName, amount: Amount, timeout_ms: TimeoutMs,
    memo: Memo = "",
) -> Transfer:
    """Reserve `amount` in the account `debit` for `credit`, until `post`, `void` or the timeout.

    Args:
        id: the idempotency key; one name space with `transfer`, `post` and `void`.
        debit: the account that will give; a limited one must have it available now.
        credit: the account that may take; sees it as `pending_in`.
        amount: 1 to 10^12 minor units, in the currency of both accounts.
        timeout_ms: counted from `tx.now_ms`, 1 to `TIMEOUT_MS_MAX`; from then on it reserves nothing.
        memo: for people, at most 500 characters.

    Raises:
        Invalid, NotFound, Conflict: as `transfer`.
    """
    check_transfer(id, memo)
    check_sides(debit, credit)
    check_amount(amount)
    if type(timeout_ms) is not int or not 1 <= timeout_ms <= TIMEOUT_MS_MAX:
        raise Invalid("timeout_ms is out of range.", timeout_ms=timeout_ms, most=TIMEOUT_MS_MAX)
    expires_at_ms = tx.now_ms + timeout_ms
    row = tx.one(
        """INSERT INTO onefold.ledger_transfers
               (space, id, kind, debit, credit, currency, amount, memo, at_ms, expires_at_ms,
                debit_limited, credit_limited)
           SELECT :space, :id, 'pending', d.name, c.name, :currency, :amount, :memo, :now_ms, :expires_at_ms,
                  d.limited, c.limited
           FROM onefold.ledger_accounts d, onefold.ledger_accounts c
           WHERE d.space = :space AND d.name = :debit AND d.currency = :currency
             AND c.space = :space AND c.name = :credit AND c.currency = :currency
           ON CONFLICT DO NOTHING
           RETURNING debit_limited, credit_limited""",
        id=id, debit=debit, credit=credit, currency=amount.currency, amount=amount.minor, memo=memo,
        expires_at_ms=expires_at_ms,
    )  # fmt: skip
    wanted = Transfer(
        id, "pending", debit, credit, amount, "pending", tx.now_ms, memo, expires_at_ms=expires_at_ms
    )  # fmt: skip
    if row is None:
        return _made_before(tx, wanted) or _refused(tx, wanted)
    if row[0]:
        funds.reserve(tx, debit, amount.minor)
    tx.run(
        """INSERT INTO onefold.ledger_pendings
               (space, id, debit, credit, currency, amount, memo, at_ms, expires_at_ms, debit_limited, credit_limited)
           VALUES (:space, :id, :debit, :credit, :currency, :amount, :memo, :now_ms, :expires_at_ms,
                   :debit_limited, :credit_limited)""",
        id=id, debit=debit, credit=credit, currency=amount.currency, amount=amount.minor, memo=memo,
        expires_at_ms=expires_at_ms, debit_limited=bool(row[0]), credit_limited=bool(row[1]),
    )  # fmt: skip
    return wanted


@operation
def try_pend(
    tx: Tx, id: str, *, debit: str, credit: str, amount: Money, timeout_ms: int, memo: str = ""
) -> Transfer | None:
    """`pend`, or None when the funds do not suffice; nothing was written then."""
    try:
        with tx.savepoint():
            return pend(tx, id, debit=debit, credit=credit, amount=amount, timeout_ms=timeout_ms, memo=memo)
    except Conflict as error:
        if error.code != "insufficient_funds":
            raise
        return None


@operation
def post(
    tx: Tx, id: TransferId, pending_id: TransferId, *, amount: PartOfIt = None, memo: Memo = ""
) -> Transfer:
    """Move what the pending transfer `pending_id` reserved; it is resolved then, for good.

    Args:
        id: the idempotency key of the post, another than `pending_id`.
        pending_id: the id given to `pend`.
        amount: at most what is pending, the rest is released; None for all of it.
        memo: for people, at most 500 characters.

    Raises:
        Invalid: an argument is out of range; it is more than is pending (code "exceeds_pending"), or of another
            currency ("currency").
        NotFound: no transfer was ever pending under this id.
        Conflict: "pending_posted", "pending_voided", "pending_lapsed": it was resolved otherwise;
            "transfer_mismatch": the id was used for something else; "balance_overflow".
    """
    check_transfer(id, memo)
    if amount is not None:
        check_amount(amount)
    return _resolve(tx, id, pending_id, amount=amount, memo=memo, moves=True)


@operation
def void(tx: Tx, id: TransferId, pending_id: TransferId, *, memo: Memo = "") -> Transfer:
    """Release what the pending transfer `pending_id` reserved; it is resolved then, for good.

    Raises:
        Invalid, NotFound, Conflict: as `post`.
    """
    check_transfer(id, memo)
    return _resolve(tx, id, pending_id, amount=None, memo=memo, moves=False)


@operation
def transfer_of(tx: Tx, id: TransferId) -> Transfer:
    """The transfer of this id, in its present state.

    Raises:
        NotFound: there is none.
    """
    found = _find(tx, id)
    if found is None:
        raise NotFound("There is no such transfer.", code="transfer", id=id)
    return found


def _resolve(tx: Tx, id: str, pending_id: str, *, amount: Money | None, memo: str, moves: bool) -> Transfer:
    # Read without a lock: but for being there, the row never changes. Deleting it decides.
    row = tx.one(
        """SELECT debit, credit, currency, amount, debit_limited, credit_limited FROM onefold.ledger_pendings
           WHERE space = :space AND id = :pending_id AND expires_at_ms > :now_ms""",
        pending_id=pending_id,
    )
    if row is None:
        return _resolved_before(tx, id, pending_id, amount=amount, memo=memo, moves=moves)
    debit, credit, currency, pending, debit_limited, credit_limited = row
    final = amount or Money(pending, currency)
    wanted = Transfer(
        id, "post" if moves else "void", debit, credit, final, "posted" if moves else "voided", tx.now_ms, memo,
        pending_id=pending_id,
    )  # fmt: skip
    _check_part(final, Money(pending, currency))
    row = tx.one(
        """INSERT INTO onefold.ledger_transfers
               (space, id, kind, debit, credit, currency, amount, memo, at_ms, pending_id,
                debit_limited, credit_limited)
           VALUES (:space, :id, :kind, :debit, :credit, :currency, :amount, :memo, :now_ms, :pending_id,
                   :debit_limited, :credit_limited)
           ON CONFLICT DO NOTHING
           RETURNING id""",
        id=id, kind=wanted.kind, debit=debit, credit=credit, currency=currency, amount=final.minor, memo=memo,
        pending_id=pending_id, debit_limited=bool(debit_limited), credit_limited=bool(credit_limited),
    )  # fmt: skip
    if row is None:
        return _resolved_before(tx, id, pending_id, amount=amount, memo=memo, moves=moves)
    released = _settle(tx, wanted, pending, debit_limited=debit_limited, credit_limited=credit_limited)
    gone = released and tx.one(
        "DELETE FROM onefold.ledger_pendings WHERE space = :space AND id = :pending_id RETURNING id",
        pending_id=pending_id,
    )
    if not gone:  # Released while we waited for the lock, by a clock ahead of ours.
        raise Conflict("The pending transfer has lapsed.", code="pending_lapsed", id=pending_id)
    return wanted


def _settle(tx: Tx, made: Transfer, pending: int, *, debit_limited: bool, credit_limited: bool) -> bool:
    """Change both balances, limited ones in the order of their names; False when there is no reservation."""
    debit, credit, taken = made.debit, made.credit, made.amount.minor
    if made.kind == "void":
        if debit_limited:
            funds.release(tx, debit, pending)
        return True
    credit_first = credit_limited and debit_limited and credit < debit
    if credit_first:
        funds.give(tx, made.id, credit, taken)
    if debit_limited:
        if not funds.capture(tx, made.id, debit, reserved=pending, taken=taken):
            return False
    else:
        funds.count(tx, debit, -taken)
    if not credit_limited:
        funds.count(tx, credit, taken)
    elif not credit_first:
        funds.give(tx, made.id, credit, taken)
    return True


def _check_part(amount: Money, pending: Money) -> None:
    if amount.currency != pending.currency:
        raise Invalid("A post has the currency of what is pending.", code="currency", pending=pending.currency)
    if amount.minor > pending.minor:
        raise Invalid(
            "A post cannot exceed what is pending.", code="exceeds_pending", most=pending.minor, minor=amount.minor
        )


def _find(tx: Tx, id: str) -> Transfer | None:
    row = tx.one(
        """SELECT t.id, t.kind, t.debit, t.credit, t.amount, t.currency, t.at_ms, t.memo, t.pending_id,
                  t.expires_at_ms,
                  (SELECT r.kind FROM onefold.ledger_transfers r WHERE r.space = :space AND r.pending_id = :id),
                  (SELECT p.amount FROM onefold.ledger_pendings p
                   WHERE p.space = :space AND p.id = :id AND p.expires_at_ms > :now_ms)
           FROM onefold.ledger_transfers t WHERE t.space = :space AND t.id = :id""",
        id=id,
    )
    return _transfer(row) if row else None


_STATES: dict[str | None, Any] = {"transfer": "posted", "post": "posted", "void": "voided"}


def _transfer(row: Row) -> Transfer:
    kind, resolved_by, pending = row[1], row[10], row[11]
    state = _STATES.get(resolved_by if kind == "pending" else kind)
    if state is None:
        state = "lapsed" if pending is None else "pending"
    return Transfer(row[0], kind, row[2], row[3], Money(row[4], row[5]), state, row[6], row[7], row[8], row[9])


def _made_before(tx: Tx, wanted: Transfer) -> Transfer | None:
    """The transfer of this id, if it is what is wanted now; None when the id is free."""
    found = _find(tx, wanted.id)
    if found is not None and _terms(found) != _terms(wanted):
        raise Conflict("The id was used for another transfer.", code="transfer_mismatch", id=wanted.id)
    return found


def _terms(made: Transfer) -> tuple[object, ...]:
    """What a repetition must agree in."""
    timeout_ms = made.expires_at_ms and made.expires_at_ms - made.at_ms
    return made.kind, made.debit, made.credit, made.amount, made.memo, made.pending_id, timeout_ms


def _refused(tx: Tx, wanted: Transfer) -> Transfer:
    """Say why the accounts did not fit."""
    rows = tx.all(
        """SELECT name, currency FROM onefold.ledger_accounts
           WHERE space = :space AND name IN (:debit, :credit) ORDER BY name LIMIT 2""",
        debit=wanted.debit, credit=wanted.credit,
    )  # fmt: skip
    currencies: dict[str, str] = dict(rows)
    for name in (wanted.debit, wanted.credit):
        if name not in currencies:
            raise NotFound("There is no such account.", code="account", account=name)
        if currencies[name] != wanted.amount.currency:
            raise Invalid(
                "The account holds another currency.", code="currency",
                account=name, holds=currencies[name], currency=wanted.amount.currency,
            )  # fmt: skip
    raise Retry("The account was opened this moment.", code="account_new")


def _resolved_before(
    tx: Tx, id: str, pending_id: str, *, amount: Money | None, memo: str, moves: bool
) -> Transfer:
    """Answer the same resolution made before, or say what became of the pending transfer."""
    pending = _find(tx, pending_id)
    if pending is None or pending.kind != "pending":
        _refuse_other(tx, id)
        raise NotFound("No transfer was pending under this id.", code="pending", id=pending_id)
    wanted = Transfer(
        id, "post" if moves else "void", pending.debit, pending.credit, amount or pending.amount,
        "posted" if moves else "voided", tx.now_ms, memo, pending_id=pending_id,
    )  # fmt: skip
    found = _made_before(tx, wanted)
    if found is not None:
        return found
    _check_part(wanted.amount, pending.amount)
    if pending.state == "posted":
        raise Conflict("The pending transfer was posted.", code="pending_posted", id=pending_id)
    if pending.state == "voided":
        raise Conflict("The pending transfer was voided.", code="pending_voided", id=pending_id)
    raise Conflict("The pending transfer has lapsed.", code="pending_lapsed", id=pending_id)


def _refuse_other(tx: Tx, id: str) -> None:
    if _find(tx, id) is not None:
        raise Conflict("The id was used for another transfer.", code="transfer_mismatch", id=id)
