"""The loop that tidies: reservations past their time, which nobody needed since, are released."""

from __future__ import annotations

from onefold.engine.tx import Tx

TIDY_MAX = 200


def tidy(tx: Tx) -> bool:
    """Release some lapsed reservations; True when more may be left. Works for all spaces at once.

    Nothing waits for it: a lapsed reservation counts for nothing from its last millisecond on.
    """
    rows = tx.all(
        """SELECT space, debit, debit_limited, id FROM onefold.ledger_pendings
           WHERE expires_at_ms + 0 <= :now_ms ORDER BY expires_at_ms + 0 LIMIT :most -- all spaces""",
        most=TIDY_MAX,
    )
    for of_space, account in sorted({(row[0], row[1]) for row in rows if row[2]}):
        # The lock first, as everybody: `reserved` and the rows behind it change together.
        tx.one(
            """SELECT posted FROM onefold.ledger_balances
               WHERE space = :of_space AND account = :account {for_update} -- all spaces""",
            of_space=of_space, account=account,
        )  # fmt: skip
    released: dict[tuple[int, str], int] = {}
    for of_space, account, limited, id in rows:
        gone = tx.one(
            """DELETE FROM onefold.ledger_pendings
               WHERE space = :of_space AND id = :id AND expires_at_ms <= :now_ms
               RETURNING amount -- all spaces""",
            of_space=of_space, id=id,
        )  # fmt: skip
        if gone is not None and limited:
            released[of_space, account] = released.get((of_space, account), 0) + gone[0]
    for (of_space, account), amount in released.items():
        tx.run(
            """UPDATE onefold.ledger_balances SET reserved = reserved - :amount
               WHERE space = :of_space AND account = :account -- all spaces""",
            of_space=of_space, account=account, amount=amount,
        )  # fmt: skip
    return len(rows) == TIDY_MAX
