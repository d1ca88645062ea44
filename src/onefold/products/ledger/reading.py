"""Balances and histories; nothing here writes."""

from __future__ import annotations

import re

from onefold.core.errors import Conflict, Invalid, NotFound
from onefold.core.money import MINOR_MAX, Money
from onefold.core.page import LIMIT_DEFAULT, Page, checked_limit, page_of
from onefold.engine.tx import Row, Tx, operation
from onefold.products.ledger.records import Balance, Entry, counter_of

_CURSOR = re.compile(r"(\d{1,15})\.(.{1,200})", re.DOTALL | re.ASCII)
_NEWEST = f"{10**15 - 1}.\U0010ffff"


@operation
def balance(tx: Tx, account: str) -> Balance:
    """What is in the account now, exactly; reservations past their time are not counted.

    Raises:
        NotFound: there is no such account.
        Conflict: an unlimited account's balance has passed 10^15 minor units (code "balance_range",
            the number is in the facts).
    """
    # One statement: whatever the isolation, all its numbers are of one moment.
    row = tx.one(
        """SELECT a.currency, a.limited, b.posted, b.overdraft_minor,
                  coalesce((SELECT sum(p.amount) FROM onefold.ledger_pendings p
                            WHERE p.space = :space AND p.debit = :account AND p.expires_at_ms > :now_ms), 0),
                  coalesce((SELECT sum(p.amount) FROM onefold.ledger_pendings p
                            WHERE p.space = :space AND p.credit = :account AND p.expires_at_ms > :now_ms), 0)
           FROM onefold.ledger_accounts a
           LEFT JOIN onefold.ledger_balances b ON b.space = a.space AND b.account = a.name
           WHERE a.space = :space AND a.name = :account""",
        account=account,
    )
    if row is None:
        raise NotFound("There is no such account.", code="account", account=account)
    currency, limited, posted, overdraft_minor, pending_out, pending_in = row
    if not limited:
        posted = tx.total(counter_of(account))
    for minor in (posted, pending_out, pending_in):
        if abs(minor) > MINOR_MAX:
            raise Conflict("The balance is too large to be shown.", code="balance_range", account=account, minor=minor)
    available = Money(posted - pending_out + overdraft_minor, currency) if limited else None
    return Balance(Money(posted, currency), Money(pending_out, currency), Money(pending_in, currency), available)


@operation
def history(tx: Tx, account: str, *, after: str | None = None, limit: int = LIMIT_DEFAULT) -> Page[Entry]:
    """What happened to the account, the newest first, by the time of the transactions.

    Args:
        account: an account's name.
        after: the cursor of the page before.
        limit: 1 to 1,000.

    Raises:
        NotFound: there is no such account.
        Invalid: the cursor is none, or the limit is out of range.
    """
    place = _CURSOR.fullmatch(after if after is not None else _NEWEST)
    if place is None:
        raise Invalid("The cursor is not one that history gave.", code="cursor")
    rows = tx.all(
        """SELECT at_ms, id, kind, side, amount, currency, other, memo, pending_id FROM (
               SELECT * FROM (
                   SELECT t.at_ms, t.id, t.kind, -1 AS side, t.amount, t.currency, t.credit AS other, t.memo,
                          t.pending_id
                   FROM onefold.ledger_transfers t
                   WHERE t.space = :space AND t.debit = :account AND (t.at_ms, t.id) < (:at_ms, :id)
                   ORDER BY t.at_ms DESC, t.id DESC LIMIT :most) AS given
               UNION ALL
               SELECT * FROM (
                   SELECT t.at_ms, t.id, t.kind, 1 AS side, t.amount, t.currency, t.debit AS other, t.memo,
                          t.pending_id
                   FROM onefold.ledger_transfers t
                   WHERE t.space = :space AND t.credit = :account AND (t.at_ms, t.id) < (:at_ms, :id)
                   ORDER BY t.at_ms DESC, t.id DESC LIMIT :most) AS taken
           ) AS entries ORDER BY at_ms DESC, id DESC LIMIT :most""",
        account=account, at_ms=int(place[1]), id=place[2], most=checked_limit(limit) + 1,
    )  # fmt: skip
    if not rows and after is None and _currency(tx, account) is None:
        raise NotFound("There is no such account.", code="account", account=account)
    return page_of([_entry(row) for row in rows], limit, lambda entry: f"{entry.at_ms}.{entry.transfer_id}")


def _entry(row: Row) -> Entry:
    at_ms, id, kind, side, amount, currency, other, memo, pending_id = row
    change = side * amount if kind in {"transfer", "post"} else 0
    return Entry(id, kind, Money(change, currency), Money(amount, currency), other, at_ms, memo, pending_id)


def _currency(tx: Tx, account: str) -> str | None:
    row = tx.one("SELECT currency FROM onefold.ledger_accounts WHERE space = :space AND name = :name", name=account)
    return row[0] if row else None
