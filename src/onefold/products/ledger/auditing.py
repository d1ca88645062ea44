"""The audit: what is stored, against what the journal adds up to."""

from __future__ import annotations

from typing import Literal

from onefold.core.page import LIMIT_DEFAULT, checked_limit
from onefold.engine.tx import Row, Tx, operation
from onefold.products.ledger.records import Audit, Fault, checked_after, counter_of

_END = "\U0010ffff"  # After every name.


@operation
def audit(tx: Tx, *, after: str | None = None, limit: int = LIMIT_DEFAULT) -> Audit:
    """Recompute accounts from the journal, in the order of their names.

    Reads every transfer of the accounts on the page, so its time grows with them. Call it through
    `db.reader()`; page after page in one function for a verdict on one moment.

    Args:
        after: the cursor of the page before.
        limit: accounts on the page, 1 to 1,000.
    """
    first = checked_after(after)
    accounts = tx.all(
        """SELECT a.name, a.currency, a.limited, b.posted, b.reserved
           FROM onefold.ledger_accounts a
           LEFT JOIN onefold.ledger_balances b ON b.space = a.space AND b.account = a.name
           WHERE a.space = :space AND a.name > :after ORDER BY a.name LIMIT :most""",
        after=first, most=checked_limit(limit) + 1,
    )  # fmt: skip
    more = len(accounts) > limit
    accounts = accounts[:limit]
    last = accounts[-1][0] if more else _END
    given, taken = _sums(tx, first, last)
    pending = {row[0]: row[1] for row in _reserved(tx, first, last)}
    faults: list[Fault] = []
    for row in accounts:
        faults += _faults(tx, row, given, taken, pending.get(row[0], 0))
    names = {row[0] for row in accounts}
    strangers = sorted({account for account, _ in (*given, *taken) if account not in names})
    faults += [Fault(account, "account", 1, 0) for account in strangers[:limit]]
    return Audit(
        accounts=len(accounts), debits=_by_currency(given), credits=_by_currency(taken), faults=faults,
        after=last if more else None,
    )  # fmt: skip


_Sums = dict[tuple[str, str], tuple[int, int]]  # (account, currency): (minor units, transfers).


def _sums(tx: Tx, first: str, last: str) -> tuple[_Sums, _Sums]:
    """What the accounts behind `first` up to `last` gave and took."""
    given = tx.all(
        """SELECT debit, currency, sum(amount), count(*) FROM onefold.ledger_transfers
           WHERE space = :space AND debit > :first AND debit <= :last AND kind IN ('transfer', 'post')
           GROUP BY debit, currency ORDER BY debit, currency -- bounded by the page's accounts""",
        first=first, last=last,
    )  # fmt: skip
    taken = tx.all(
        """SELECT credit, currency, sum(amount), count(*) FROM onefold.ledger_transfers
           WHERE space = :space AND credit > :first AND credit <= :last AND kind IN ('transfer', 'post')
           GROUP BY credit, currency ORDER BY credit, currency -- bounded by the page's accounts""",
        first=first, last=last,
    )  # fmt: skip
    return (
        {(row[0], row[1]): (row[2], row[3]) for row in given},
        {(row[0], row[1]): (row[2], row[3]) for row in taken},
    )


def _reserved(tx: Tx, first: str, last: str) -> list[Row]:
    return tx.all(
        """SELECT debit, sum(amount) FROM onefold.ledger_pendings
           WHERE space = :space AND debit > :first AND debit <= :last
           GROUP BY debit ORDER BY debit -- bounded by the page's accounts""",
        first=first, last=last,
    )  # fmt: skip


def _faults(tx: Tx, row: Row, given: _Sums, taken: _Sums, pending: int) -> list[Fault]:
    name, currency, limited, posted, reserved = row
    if not limited:
        posted = tx.total(counter_of(name))
    found = taken.get((name, currency), (0, 0))[0] - given.get((name, currency), (0, 0))[0]
    foreign = sum(
        count for sums in (given, taken) for (account, held), (_, count) in sums.items()
        if account == name and held != currency
    )  # fmt: skip
    checks: list[tuple[Literal["posted", "reserved", "currency"], int, int]] = [
        ("posted", posted, found),
        ("currency", foreign, 0),
    ]
    if limited:
        checks.append(("reserved", reserved, pending))
    return [Fault(name, what, stored, should) for what, stored, should in checks if stored != should]


def _by_currency(sums: _Sums) -> dict[str, int]:
    totals: dict[str, int] = {}
    for (_, currency), (minor, _count) in sums.items():
        totals[currency] = totals.get(currency, 0) + minor
    return totals
