"""Long fork: two reads that saw two independent writes in opposite orders.

Parallel snapshot isolation allows it, snapshot isolation does not. Y. Sovran et al.: Transactional
storage for geo-replicated systems (2011).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from onefold.core.errors import Invalid
from onefold.testing.checkers.history import History, Operation, show
from onefold.testing.checkers.transactions import Transactions
from onefold.testing.checkers.verdict import Findings, Verdict, unknown


def check_long_fork(history: History) -> Verdict:
    """Compare reads of the same keys. Values are transactions as of rw-register; every key is written once.

    Raises:
        Invalid: a key is written twice; a value is no list of micro-operations.
    """
    txns = Transactions(history, "w")
    written: set[Any] = set()
    for txn in txns.all:
        for f, key, _ in txn.micros:
            if f == "w" and key in written:
                raise Invalid("A key is written twice.", code="not_of_the_model", key=show(key), operation=str(txn.op))
            if f == "w":
                written.add(key)
    groups: dict[frozenset[Any], dict[frozenset[Any], Operation]] = {}
    reads = 0
    for _, txn in txns.committed():
        values = {key: value for f, key, value in txn.micros if f == "r"}
        if len(values) > 1 and len(values) == len(txn.micros):
            reads += 1
            there = frozenset(key for key, value in values.items() if value is not None)
            groups.setdefault(frozenset(values), {}).setdefault(there, txn.op)
    if not reads:
        return unknown("long-fork", "No transaction read several keys.")
    findings = Findings()
    for views in groups.values():
        _compare(views, findings)
    return findings.verdict("long-fork", {"reads": reads, "groups": len(groups)})


def _compare(views: dict[frozenset[Any], Operation], findings: Findings) -> None:
    """The keys that were there must only have grown: of two views one contains the other."""
    ordered = sorted(views, key=len)
    for smaller, larger in pairwise(ordered):
        if not smaller <= larger:
            only = show(min(smaller - larger, key=show)), show(min(larger - smaller, key=show))
            text = f"One saw {only[0]} without {only[1]}, the other {only[1]} without {only[0]}."
            findings.add("long-fork", text, [views[smaller], views[larger]])
