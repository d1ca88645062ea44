"""The audit: balances against the histories behind them, and histories line by line against the journal.

Both go page by page. Together they prove by induction that every limited balance is the sum of its
transfers: each line of history follows from the one before, and the balance is the last line's.
"""

from __future__ import annotations

from onefold.core.errors import Invalid
from onefold.core.page import LIMIT_DEFAULT, Limit, checked_limit
from onefold.engine.tx import Row, Tx, operation
from onefold.products.ledger.records import (
    ID_LENGTH_MAX,
    AccountCursor,
    Audit,
    Fault,
    TransferCursor,
    What,
    checked_after,
    counter_of,
)

_MOVES = frozenset(("transfer", "post"))
_LAST = "\U0010ffff"  # After every name and id.


@operation
def audit(tx: Tx, *, after: AccountCursor | None = None, limit: Limit = LIMIT_DEFAULT) -> Audit:
    """Check balances, in the order of the accounts' names.

    A limited account costs the same however long its history; an unlimited one is summed up, about a
    second for a million of its transfers. Go through `db.reader()`, page after page in one function, for a
    verdict on one moment: over all pages `sums` are 0 in every currency.

    Args:
        after: the cursor of the page before.
        limit: accounts on the page, 1 to 1,000.
    """
    first = checked_after(after)
    rows = tx.all(
        """SELECT name, currency, limited FROM onefold.ledger_accounts
           WHERE space = :space AND name > :first ORDER BY name LIMIT :most""",
        first=first, most=checked_limit(limit) + 1,
    )  # fmt: skip
    more, rows = len(rows) > limit, rows[:limit]
    last = rows[-1][0] if more else _LAST
    balances = {row[0]: row for row in _balances(tx, first, last)}
    sums: dict[str, int] = {}
    faults: list[Fault] = []
    for name, currency, limited in rows:
        row = balances.pop(name, None)
        posted = tx.total(counter_of(name)) if not limited else row[1] if row else 0
        sums[currency] = sums.get(currency, 0) + posted
        faults += _limited_faults(name, row) if limited else _unlimited_faults(tx, name, posted)
    faults += [Fault(name, "account", 1, 0) for name in balances][:limit]  # Of no limited account.
    return Audit(len(rows), sums, faults, last if more else None)


@operation
def audit_journal(tx: Tx, *, after: TransferCursor | None = None, limit: Limit = LIMIT_DEFAULT) -> Audit:
    """Check transfers and the lines of history that they left, in the order of their ids.

    The journal is never changed, so what was checked once need not be again: keep the last id (with
    sortable ids) and go on behind it the next day.

    Args:
        after: the cursor of the page before, or any id.
        limit: transfers on the page, 1 to 1,000.
    """
    if after is not None and len(after) > ID_LENGTH_MAX:
        raise Invalid("The cursor is longer than an id.", code="cursor", length=len(after))
    transfers = tx.all(
        """SELECT t.id, t.kind, t.debit, t.credit, t.currency, t.amount, t.debit_limited, t.credit_limited,
                  EXISTS (SELECT 1 FROM onefold.ledger_accounts a
                          WHERE a.space = :space AND a.name = t.debit
                            AND a.currency = t.currency AND a.limited = t.debit_limited),
                  EXISTS (SELECT 1 FROM onefold.ledger_accounts a
                          WHERE a.space = :space AND a.name = t.credit
                            AND a.currency = t.currency AND a.limited = t.credit_limited),
                  t.pending_id IS NULL
                  OR EXISTS (SELECT 1 FROM onefold.ledger_transfers p
                             WHERE p.space = :space AND p.id = t.pending_id AND p.kind = 'pending'
                               AND p.debit = t.debit AND p.credit = t.credit AND p.currency = t.currency
                               AND (p.amount = t.amount OR (t.kind = 'post' AND p.amount > t.amount)))
           FROM onefold.ledger_transfers t
           WHERE t.space = :space AND t.id > :after ORDER BY t.id LIMIT :most""",
        after=after or "", most=checked_limit(limit) + 1,
    )  # fmt: skip
    more, transfers = len(transfers) > limit, transfers[:limit]
    lines = _lines(tx, after or "", transfers[-1][0] if more else _LAST)
    sums: dict[str, int] = {}
    faults: list[Fault] = []
    for row in transfers:
        if row[1] in _MOVES:
            sums[row[4]] = sums.get(row[4], 0) + row[5]
        faults += _side_faults(row) + _line_faults(row, lines)
    # What no transfer asked for.
    faults += [Fault(account, "entry", line[2], 0, id) for (id, account), line in lines.items()][:limit]
    return Audit(len(transfers), sums, faults, transfers[-1][0] if more else None)


def _balances(tx: Tx, first: str, last: str) -> list[Row]:
    """Balance rows of the accounts behind `first` up to `last`, each beside the rows that it rests on."""
    return tx.all(
        """SELECT b.account, b.posted, b.entries, b.reserved,
                  coalesce((SELECT e.balance FROM onefold.ledger_entries e
                            WHERE e.space = :space AND e.transfer_id = b.last_id AND e.account = b.account), 0),
                  coalesce((SELECT e.number FROM onefold.ledger_entries e
                            WHERE e.space = :space AND e.transfer_id = b.last_id AND e.account = b.account), 0),
                  coalesce((SELECT sum(p.amount) FROM onefold.ledger_pendings p
                            WHERE p.space = :space AND p.debit = b.account), 0)
           FROM onefold.ledger_balances b
           WHERE b.space = :space AND b.account > :first AND b.account <= :last
           ORDER BY b.account -- at most one of each of the page's accounts""",
        first=first, last=last,
    )  # fmt: skip


def _limited_faults(name: str, row: Row | None) -> list[Fault]:
    if row is None:
        return [Fault(name, "account", 0, 1)]  # It has no balance row.
    _, posted, entries, reserved, balance, number, pending = row
    checks: tuple[tuple[What, int, int], ...] = (
        ("posted", posted, balance), ("entry", entries, number), ("reserved", reserved, pending),
    )  # fmt: skip
    return [Fault(name, what, stored, expected) for what, stored, expected in checks if stored != expected]


def _unlimited_faults(tx: Tx, account: str, posted: int) -> list[Fault]:
    # `at_ms > 0` holds for all; with it SQLite sees that the index by account is the better one.
    row = tx.one(
        """SELECT coalesce((SELECT sum(t.amount) FROM onefold.ledger_transfers t
                            WHERE t.space = :space AND t.credit = :account AND t.at_ms > 0
                              AND NOT t.credit_limited AND t.kind IN ('transfer', 'post')), 0)
                - coalesce((SELECT sum(t.amount) FROM onefold.ledger_transfers t
                            WHERE t.space = :space AND t.debit = :account AND t.at_ms > 0
                              AND NOT t.debit_limited AND t.kind IN ('transfer', 'post')), 0)""",
        account=account,
    )
    found = row[0] if row else 0
    return [] if posted == found else [Fault(account, "posted", posted, found)]


_Lines = dict[tuple[str, str], tuple[int, int, int, int]]


def _lines(tx: Tx, after: str, last: str) -> _Lines:
    """(transfer, account): balance after and before, number, number before; of these transfers."""
    rows = tx.all(
        """SELECT e.transfer_id, e.account, e.balance,
                  coalesce((SELECT v.balance FROM onefold.ledger_entries v
                            WHERE v.space = :space AND v.transfer_id = e.previous_id AND v.account = e.account), 0),
                  e.number,
                  coalesce((SELECT v.number FROM onefold.ledger_entries v
                            WHERE v.space = :space AND v.transfer_id = e.previous_id AND v.account = e.account), 0)
           FROM onefold.ledger_entries e
           WHERE e.space = :space AND e.transfer_id > :after AND e.transfer_id <= :last
           ORDER BY e.transfer_id, e.account -- at most two of each of the page's transfers""",
        after=after, last=last,
    )  # fmt: skip
    return {(row[0], row[1]): (row[2], row[3], row[4], row[5]) for row in rows}


def _side_faults(row: Row) -> list[Fault]:
    """Whether the transfer fits its accounts and what it resolves."""
    id, _, debit, credit, _, amount, _, _, debit_fits, credit_fits, resolution_fits = row
    faults = [
        Fault(account, "account", 0, 1, id)
        for account, fits in ((debit, debit_fits), (credit, credit_fits)) if not fits
    ]  # fmt: skip
    if not resolution_fits:
        faults.append(Fault(debit, "resolution", amount, 0, id))
    return faults


def _line_faults(row: Row, lines: _Lines) -> list[Fault]:
    """Take the transfer's lines out of `lines`; answer those that are missing or off."""
    id, kind, debit, credit, _, amount, debit_limited, credit_limited = row[:8]
    faults: list[Fault] = []
    if kind not in _MOVES:
        return faults
    for account, limited, change in ((debit, debit_limited, -amount), (credit, credit_limited, amount)):
        if not limited:
            continue
        line = lines.pop((id, account), None)
        if line is None:
            faults.append(Fault(account, "entry", 0, 1, id))
        elif line[0] - line[1] != change:
            faults.append(Fault(account, "entry", line[0], line[1] + change, id))
        elif line[2] != line[3] + 1:
            faults.append(Fault(account, "entry", line[2], line[3] + 1, id))
    return faults
