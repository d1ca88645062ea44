"""The loop that tidies: reservations past their time, which nobody needed since, are released."""

from __future__ import annotations

from onefold.engine.tx import Tx

TIDY_MAX = 200

# One statement, in the order in which everybody locks: the balance rows by name, all of them, which is what the count
# is for, and only then rows of `ledger_pendings`. What a transaction that was waited for has released already is gone,
# and comes back from nowhere: what the deletion answers is what this one released.
RELEASE = """
WITH lapsed AS MATERIALIZED (
    SELECT p.space, p.id, p.debit, p.debit_limited FROM onefold.ledger_pendings p
    WHERE p.expires_at_ms + 0 <= :now_ms ORDER BY p.expires_at_ms + 0 LIMIT :most),
held AS MATERIALIZED (
    SELECT b.space, b.account FROM onefold.ledger_balances b
    WHERE (b.account, b.space) IN (SELECT l.debit, l.space FROM lapsed l WHERE l.debit_limited)
    ORDER BY b.space, b.account {for_update})
DELETE FROM onefold.ledger_pendings
WHERE (onefold.ledger_pendings.id, onefold.ledger_pendings.space) IN (
    SELECT l.id, l.space FROM lapsed l WHERE (SELECT count(*) FROM held) >= 0)
RETURNING space, debit, debit_limited, amount -- all spaces
"""


def tidy(tx: Tx) -> bool:
    """Release up to 200 lapsed reservations; True when more may be left. Works for all spaces at once.

    Nothing waits for it: a lapsed reservation counts for nothing from its last millisecond on.
    """
    gone = tx.all(RELEASE, most=TIDY_MAX)
    released: dict[tuple[int, str], int] = {}
    for of_space, account, limited, amount in gone:
        if limited:
            released[of_space, account] = released.get((of_space, account), 0) + amount
    tx.many(
        """UPDATE onefold.ledger_balances SET reserved = reserved - :amount
           WHERE space = :of_space AND account = :account -- all spaces""",
        [
            {"of_space": of_space, "account": account, "amount": amount}
            for (of_space, account), amount in sorted(released.items())
        ],
    )
    return len(gone) == TIDY_MAX
