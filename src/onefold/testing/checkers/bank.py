"""The bank of Jepsen: transfers move money, so each read of all accounts has to show the same total."""

from __future__ import annotations

from typing import Any

from onefold.core.errors import Invalid
from onefold.testing.checkers.history import History, Operation, show
from onefold.testing.checkers.verdict import Findings, Verdict, unknown


def check_bank(history: History, *, total: int | None = None, allow_negative: bool = False) -> Verdict:
    """Look at each `read`, whose value maps accounts to balances. Other operations are not looked at.

    Args:
        total: the sum of all balances; None takes it from the first read.
        allow_negative: balances below zero are no anomaly.

    Raises:
        Invalid: a read answered no map of numbers.
    """
    findings = Findings()
    accounts: set[Any] | None = None
    reads = [op for op in history.where("ok") if op.f == "read" and op.output is not None]
    for op in reads:
        balances = _balances(op)
        empty = [account for account, balance in balances.items() if balance is None]
        accounts = set(balances) if accounts is None else accounts
        if accounts != set(balances):
            other = ", ".join(sorted(show(one) for one in accounts ^ set(balances)))
            findings.add("unexpected-key", f"Other accounts than in the first read: {other}.", [op])
        elif empty:
            findings.add("nil-balance", f"Account {show(empty[0])} has no balance.", [op])
        else:
            found = sum(balances.values())
            total = found if total is None else total
            if found != total:
                findings.add("wrong-total", f"The balances make {found}, not {total}.", [op])
        below = [account for account, balance in balances.items() if balance is not None and balance < 0]
        if below and not allow_negative:
            findings.add("negative-value", f"Account {show(below[0])} has {balances[below[0]]}.", [op])
    if not reads:
        return unknown("bank", "Nothing was read.")
    return findings.verdict("bank", {"reads": len(reads)})


def _balances(op: Operation) -> dict[Any, Any]:
    if isinstance(op.output, frozenset):
        pairs = list(op.output)
        if all(isinstance(one, tuple) and len(one) == 2 and type(one[1]) in {int, float, type(None)} for one in pairs):
            return dict(pairs)
    raise Invalid("A read of the bank answered no map of balances.", code="not_of_the_model", operation=str(op))
