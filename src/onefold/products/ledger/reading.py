"""Balances and histories; nothing here writes."""

from __future__ import annotations

import re
from typing import Annotated

from onefold.core.errors import Conflict, Invalid, NotFound
from onefold.core.limits import shaped, text
from onefold.core.money import MINOR_MAX, Money
from onefold.core.page import LIMIT_DEFAULT, Limit, Page, checked_limit, page_of
from onefold.engine.tx import Row, Tx, operation
from onefold.products.ledger.records import ID_LENGTH_MAX, AccountName, Balance, Entry, Transfer, counter_of

_TIME_DIGITS_MAX = 15
_CURSOR = re.compile(rf"([0-9]{{1,{_TIME_DIGITS_MAX}}})\.([^\u0000]{{1,{ID_LENGTH_MAX}}})")
PendingCursor = Annotated[str, shaped(_CURSOR)]
#: Of a limited account a transfer's id, of an unlimited one a time with it.
EntryCursor = Annotated[str, text(1, _TIME_DIGITS_MAX + 1 + ID_LENGTH_MAX)]
_LAST = "\U0010ffff"  # After every id.
_NEWEST = f"{10**_TIME_DIGITS_MAX - 1}.{_LAST}"


@operation
def balance(tx: Tx, account: AccountName) -> Balance:
    """What is in the account now, exactly; reservations past their time are not counted.

    Raises:
        NotFound: there is no such account.
        Conflict: an unlimited account's balance has passed 10^15 minor units (code "balance_range",
            the number is in the facts).
    """
    # One statement: whatever the isolation, all its numbers are of one moment.
    row = tx.one(
        """SELECT a.currency, a.limited,
                  (SELECT b.posted FROM onefold.ledger_balances b WHERE b.space = :space AND b.account = :account),
                  (SELECT b.overdraft_minor FROM onefold.ledger_balances b
                   WHERE b.space = :space AND b.account = :account),
                  coalesce((SELECT sum(p.amount) FROM onefold.ledger_pendings p
                            WHERE p.space = :space AND p.debit = :account AND p.expires_at_ms > :now_ms), 0),
                  coalesce((SELECT sum(p.amount) FROM onefold.ledger_pendings p
                            WHERE p.space = :space AND p.credit = :account AND p.expires_at_ms > :now_ms), 0)
           FROM onefold.ledger_accounts a WHERE a.space = :space AND a.name = :account""",
        account=account,
    )
    if row is None:
        raise _unknown(account)
    currency, limited, posted, overdraft_minor, pending_out, pending_in = row
    if not limited:
        posted = tx.total(counter_of(account))
    for minor in (posted, pending_out, pending_in):
        if abs(minor) > MINOR_MAX:
            raise Conflict("The balance is too large to be shown.", code="balance_range", account=account, minor=minor)
    available = Money(posted - pending_out + overdraft_minor, currency) if limited else None
    return Balance(Money(posted, currency), Money(pending_out, currency), Money(pending_in, currency), available)


@operation
def history(
    tx: Tx, account: AccountName, *, after: EntryCursor | None = None, limit: Limit = LIMIT_DEFAULT
) -> Page[Entry]:
    """What changed the account's posted balance, the newest first.

    Entries of a limited account are in the order in which they took place, numbered, each with the
    balance after it. Those of an unlimited one are ordered by the time of their transactions.

    Args:
        account: an account's name.
        after: the cursor of the page before.
        limit: 1 to 1,000.

    Raises:
        NotFound: there is no such account.
        Invalid: the cursor is none (code "cursor"), or the limit is out of range.
    """
    most = checked_limit(limit) + 1
    row = tx.one(
        """SELECT a.limited, (SELECT b.last_id FROM onefold.ledger_balances b
                              WHERE b.space = :space AND b.account = :account)
           FROM onefold.ledger_accounts a WHERE a.space = :space AND a.name = :account""",
        account=account,
    )
    if row is None:
        raise _unknown(account)
    if row[0]:
        first = row[1] if after is None else _before(tx, account, after)
        return page_of(_chain(tx, account, first, most), limit, lambda entry: entry.transfer_id)
    entries = _by_time(tx, account, _NEWEST if after is None else after, most)
    return page_of(entries, limit, lambda entry: f"{entry.at_ms}.{entry.transfer_id}")


@operation
def list_pendings(
    tx: Tx, account: AccountName, *, after: PendingCursor | None = None, limit: Limit = LIMIT_DEFAULT
) -> Page[Transfer]:
    """The pending transfers that reserve the account's funds, the first to lapse first.

    Args:
        account: an account's name.
        after: the cursor of the page before.
        limit: 1 to 1,000.

    Raises:
        NotFound: there is no such account.
        Invalid: the cursor is none (code "cursor"), or the limit is out of range.
    """
    expires_at_ms, id = _place(after) if after is not None else (tx.now_ms, _LAST)
    rows = tx.all(
        """SELECT id, debit, credit, amount, currency, at_ms, memo, expires_at_ms
           FROM onefold.ledger_pendings
           WHERE space = :space AND debit = :account AND expires_at_ms > :now_ms
             AND (expires_at_ms, id) > (:expires_at_ms, :id)
           ORDER BY expires_at_ms, id LIMIT :most""",
        account=account, expires_at_ms=expires_at_ms, id=id, most=checked_limit(limit) + 1,
    )  # fmt: skip
    if not rows and not tx.all(
        "SELECT 1 FROM onefold.ledger_accounts WHERE space = :space AND name = :account", account=account
    ):
        raise _unknown(account)
    found = [
        Transfer(r[0], "pending", r[1], r[2], Money(r[3], r[4]), "pending", r[5], r[6], expires_at_ms=r[7])
        for r in rows
    ]  # fmt: skip
    return page_of(found, limit, lambda made: f"{made.expires_at_ms}.{made.id}")


def _before(tx: Tx, account: str, after: str) -> str | None:
    """The transfer of the entry before that of the transfer `after`."""
    row = tx.one(
        """SELECT previous_id FROM onefold.ledger_entries
           WHERE space = :space AND transfer_id = :after AND account = :account""",
        after=after, account=account,
    )  # fmt: skip
    if row is None:
        raise _no_cursor()
    return row[0]


def _chain(tx: Tx, account: str, first: str | None, most: int) -> list[Entry]:
    """Walk a limited account's entries backwards from that of the transfer `first`."""
    if first is None:
        return []
    # Joined by the chain's columns alone: given `:space`, PostgreSQL plans a walk through the whole space
    # while the table is small, and keeps that plan.
    rows = tx.all(
        """WITH RECURSIVE chain (space, account, transfer_id, number, balance, previous_id, depth) AS (
               SELECT e.space, e.account, e.transfer_id, e.number, e.balance, e.previous_id, 1
               FROM onefold.ledger_entries e
               WHERE e.space = :space AND e.transfer_id = :first AND e.account = :account
               UNION ALL
               SELECT e.space, e.account, e.transfer_id, e.number, e.balance, e.previous_id, c.depth + 1
               FROM chain c
               JOIN onefold.ledger_entries e
                 ON e.space = c.space AND e.transfer_id = c.previous_id AND e.account = c.account
               WHERE c.depth < :most)
           SELECT t.at_ms, t.id, t.kind, t.debit, t.credit, t.amount, t.currency, t.memo, t.pending_id,
                  chain.balance, chain.number
           FROM chain
           JOIN onefold.ledger_transfers t ON t.space = chain.space AND t.id = chain.transfer_id
           ORDER BY chain.number DESC LIMIT :most""",
        account=account, first=first, most=most,
    )  # fmt: skip
    return [_entry(account, row) for row in rows]


def _by_time(tx: Tx, account: str, after: str, most: int) -> list[Entry]:
    at_ms, id = _place(after)
    rows = tx.all(
        """SELECT at_ms, id, kind, debit, credit, amount, currency, memo, pending_id, NULL, NULL FROM (
               SELECT * FROM (
                   SELECT t.at_ms, t.id, t.kind, t.debit, t.credit, t.amount, t.currency, t.memo, t.pending_id
                   FROM onefold.ledger_transfers t
                   WHERE t.space = :space AND t.debit = :account AND (t.at_ms, t.id) < (:at_ms, :id)
                     AND NOT t.debit_limited AND t.kind IN ('transfer', 'post')
                   ORDER BY t.at_ms DESC, t.id DESC LIMIT :most) AS given
               UNION ALL
               SELECT * FROM (
                   SELECT t.at_ms, t.id, t.kind, t.debit, t.credit, t.amount, t.currency, t.memo, t.pending_id
                   FROM onefold.ledger_transfers t
                   WHERE t.space = :space AND t.credit = :account AND (t.at_ms, t.id) < (:at_ms, :id)
                     AND NOT t.credit_limited AND t.kind IN ('transfer', 'post')
                   ORDER BY t.at_ms DESC, t.id DESC LIMIT :most) AS taken
           ) AS entries ORDER BY at_ms DESC, id DESC LIMIT :most""",
        account=account, at_ms=at_ms, id=id, most=most,
    )  # fmt: skip
    return [_entry(account, row) for row in rows]


def _entry(account: str, row: Row) -> Entry:
    at_ms, id, kind, debit, credit, amount, currency, memo, pending_id, after, number = row
    gave = debit == account
    change = Money(-amount if gave else amount, currency)
    balance = None if after is None else Money(after, currency)
    return Entry(id, kind, change, balance, number, credit if gave else debit, at_ms, memo, pending_id)


def _place(after: str) -> tuple[int, str]:
    place = _CURSOR.fullmatch(after)
    if place is None:
        raise _no_cursor()
    return int(place[1]), place[2]


def _no_cursor() -> Invalid:
    return Invalid("The cursor is not one that this list gave.", code="cursor")


def _unknown(account: str) -> NotFound:
    return NotFound("There is no such account.", code="account", account=account)
