"""Accounts: opened once, never closed; what they are does not change, but for the credit line."""

from __future__ import annotations

from typing import get_args

from onefold.core.errors import Conflict, Invalid, NotFound
from onefold.core.money import Currency, Money
from onefold.core.page import LIMIT_DEFAULT, Limit, Page, checked_limit, page_of
from onefold.engine.tx import Row, Tx, operation
from onefold.products.ledger.funds import release_lapsed
from onefold.products.ledger.records import (
    Account,
    AccountCursor,
    AccountKind,
    AccountName,
    OverdraftMinor,
    check_account,
    check_overdraft,
    checked_after,
)


@operation
def open_account(
    tx: Tx, account: AccountName, *, currency: Currency, kind: AccountKind = "limited",
    overdraft_minor: OverdraftMinor = 0,
) -> Account:
    """Open an account with nothing in it; opening it again with the same terms answers the first.

    Args:
        account: 1 to 180 characters; "/" separates levels by custom ("wallet/ana").
        currency: three capital letters (ISO 4217).
        kind: "limited" for wallets: checked and locked at every transfer. "unlimited" for what
            everybody pays into or out of (fees, revenue, funding): never locked, never refused.
        overdraft_minor: how far below zero a limited one may go, 0 to 10^12.

    Raises:
        Invalid: an argument is out of range, or an unlimited account is to have a credit line (code "overdraft").
        Conflict: it exists with another currency or kind (code "account_mismatch").
    """
    check_account(account)
    Money(0, currency)
    if kind not in get_args(AccountKind):
        raise Invalid('An account is "limited" or "unlimited".', kind=kind)
    check_overdraft(overdraft_minor)
    if kind == "unlimited" and overdraft_minor:
        raise Invalid("An unlimited account has no credit line.", code="overdraft", overdraft_minor=overdraft_minor)
    row = tx.one(
        """INSERT INTO onefold.ledger_accounts (space, name, currency, limited, opened_at_ms)
           VALUES (:space, :name, :currency, :limited, :now_ms)
           ON CONFLICT (space, name) DO NOTHING RETURNING name""",
        name=account, currency=currency, limited=kind == "limited",
    )  # fmt: skip
    if row is None:
        return _opened_before(tx, account, currency, kind)
    if kind == "limited":
        tx.run(
            """INSERT INTO onefold.ledger_balances (space, account, posted, reserved, overdraft_minor, entries)
               VALUES (:space, :account, 0, 0, :overdraft_minor, 0)""",
            account=account, overdraft_minor=overdraft_minor,
        )  # fmt: skip
    return Account(account, currency, kind, overdraft_minor, tx.now_ms)


@operation
def set_overdraft(tx: Tx, account: AccountName, *, overdraft_minor: OverdraftMinor) -> Account:
    """Change how far below zero a limited account may go, 0 to 10^12 minor units.

    Raises:
        NotFound: there is no such limited account.
        Conflict: more of the credit line is in use (code "overdraft_in_use").
    """
    check_overdraft(overdraft_minor)
    # Locked and cleared of lapsed reservations first: those must not count as use of the line.
    if release_lapsed(tx, account, need=None) is None:
        raise NotFound("There is no such limited account.", code="account", account=account)
    row = tx.one(
        """UPDATE onefold.ledger_balances SET overdraft_minor = :overdraft_minor
           WHERE space = :space AND account = :account AND posted - reserved + :overdraft_minor >= 0
           RETURNING account""",
        account=account, overdraft_minor=overdraft_minor,
    )  # fmt: skip
    if row is None:
        raise Conflict("More of the credit line is in use.", code="overdraft_in_use", account=account)
    return account_of(tx, account)


@operation
def account_of(tx: Tx, account: AccountName) -> Account:
    """The account called so.

    Raises:
        NotFound: there is none.
    """
    row = _row(tx, account)
    if row is None:
        raise NotFound("There is no such account.", code="account", account=account)
    return _account(row)


@operation
def list_accounts(tx: Tx, *, after: AccountCursor | None = None, limit: Limit = LIMIT_DEFAULT) -> Page[Account]:
    """All accounts by name.

    Args:
        after: the cursor of the page before; any name will do ("wallet/" starts at the wallets).
        limit: 1 to 1,000.
    """
    rows = tx.all(
        """SELECT a.name, a.currency, a.limited,
                  (SELECT b.overdraft_minor FROM onefold.ledger_balances b
                   WHERE b.space = :space AND b.account = a.name), a.opened_at_ms
           FROM onefold.ledger_accounts a
           WHERE a.space = :space AND a.name > :after ORDER BY a.name LIMIT :most""",
        after=checked_after(after), most=checked_limit(limit) + 1,
    )  # fmt: skip
    return page_of([_account(row) for row in rows], limit, lambda account: account.name)


def _row(tx: Tx, account: str) -> Row | None:
    return tx.one(
        """SELECT a.name, a.currency, a.limited,
                  (SELECT b.overdraft_minor FROM onefold.ledger_balances b
                   WHERE b.space = :space AND b.account = a.name), a.opened_at_ms
           FROM onefold.ledger_accounts a
           WHERE a.space = :space AND a.name = :name""",
        name=account,
    )


def _account(row: Row) -> Account:
    return Account(row[0], row[1], "limited" if row[2] else "unlimited", row[3] or 0, row[4])


def _opened_before(tx: Tx, account: str, currency: str, kind: AccountKind) -> Account:
    """The account, opened by another call. Its credit line may have changed since and is not compared."""
    found = account_of(tx, account)
    if (found.currency, found.kind) != (currency, kind):
        raise Conflict(
            "The account exists with other terms.", code="account_mismatch",
            account=account, currency=found.currency, kind=found.kind,
        )  # fmt: skip
    return found
