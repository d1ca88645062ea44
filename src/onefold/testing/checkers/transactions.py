"""Transactions of micro-operations: what list-append and rw-register have in common.

The value of an operation is a list of [f key value]: `["r", "x", [1, 2]]`, `["append", "x", 3]`,
`["w", "x", 4]`. In an invocation the values of reads are nil. Of a transaction with unknown outcome
only the writes are known, of a failed one it is known that nobody may see them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from onefold.core.errors import Invalid
from onefold.testing.checkers import consistency
from onefold.testing.checkers.cycles import Cycle, find_cycles
from onefold.testing.checkers.graph import NAMES, PROCESS, REALTIME, Graph, order_in_time
from onefold.testing.checkers.history import NEVER, History, Operation, show
from onefold.testing.checkers.verdict import Findings, Verdict

Micro = tuple[str, Any, Any]
_SHORT = {"read": "r", "write": "w"}


class Transaction(msgspec.Struct, frozen=True, eq=False, gc=False):
    """An operation, understood."""

    op: Operation
    micros: tuple[Micro, ...]


class Transactions:
    """The transactions of a history: those that committed or may have, by number, and those that failed."""

    def __init__(self, history: History, writes: str) -> None:
        self.all = [_understood(op, writes) for op in history.where("ok", "info")]
        self.failed = [_understood(op, writes) for op in history.where("fail")]
        self.findings = Findings()
        self.graph = Graph(len(self.all))

    def committed(self) -> Iterable[tuple[int, Transaction]]:
        """Those that are known to have committed."""
        return ((n, one) for n, one in enumerate(self.all) if one.op.type == "ok")

    def link_orders(self) -> None:
        """Add the order of each process, and real time."""
        last: dict[Any, int] = {}
        for n, one in enumerate(self.all):
            if one.op.process in last:
                self.graph.link(last[one.op.process], n, PROCESS)
            last.pop(one.op.process, None)
            if one.op.type == "ok":
                last[one.op.process] = n
        order_in_time(self.graph, [(t.op.invoked, t.op.completed, t.op.completed != NEVER) for t in self.all])

    def verdict(
        self, checker: str, model: str, deadline_s: float, why: Callable[[int, int, int], str], notes: list[str]
    ) -> Verdict:
        """Add the orders, find the cycles, and say which models the findings rule out."""
        dependencies = sum(len(out) for out in self.graph.out)
        self.link_orders()
        cycles, cut = find_cycles(self.graph, time.monotonic() + deadline_s)
        for name, cycle in cycles:
            self.add_cycle(name, cycle, why)
        out = consistency.ruled_out(self.findings.counts)
        weakest = consistency.weakest(out)
        stats = {"transactions": len(self.all), "failed": len(self.failed)}
        stats |= {"dependencies": dependencies, "cycles": len(cycles)}
        valid, reason = model not in out, f"Checked against {model}."
        if valid and cut:
            valid, reason = None, "The search for cycles came to its deadline."
        elif valid and not any(self.graph.out):
            valid, reason = None, "No transaction is related to another: there is nothing to judge."
        return Verdict(
            f"{checker} {model}", valid, self.findings.kept, self.findings.counts, weakest,
            [one for one in consistency.IMPLIES if one in out and one not in weakest],
            consistency.strongest(set(consistency.IMPLIES) - out), reason, notes, stats,
        )  # fmt: skip

    def add_cycle(self, name: str, cycle: Cycle, why: Callable[[int, int, int], str]) -> None:
        """Tell of a cycle, step by step."""
        ops = [self.all[a].op for a, _, _ in cycle]
        lines = [f"{ops[n]}\n  -{NAMES[kind]}-> {why(a, kind, b)}" for n, (a, kind, b) in enumerate(cycle)]
        text = "\n".join([*lines, f"{ops[0]}: a cycle"])
        self.findings.add(name, text, ops, [NAMES[kind] for _, kind, _ in cycle])


def since(kind: int, before: Operation, after: Operation) -> str | None:
    """Why one comes before the other in the order of a process or in time; None for a dependency."""
    if kind == PROCESS:
        return f"process {show(before.process)} ran it before #{after.index}"
    if kind == REALTIME:
        return f"it ended before #{after.index} began"
    return None


def _understood(op: Operation, writes: str) -> Transaction:
    value = op.output if op.type == "ok" and op.output is not None else op.input
    micros: list[Micro] = []
    for micro in value if isinstance(value, tuple) else (None,):
        if not isinstance(micro, tuple) or not 2 <= len(micro) <= 3:
            raise Invalid(
                "The value of a transaction is no list of [f key value].", code="not_of_the_model", operation=str(op)
            )
        f = str(micro[0]).lstrip(":")
        f = _SHORT.get(f, f)
        if f not in ("r", writes):
            raise Invalid(
                "The model does not know this micro-operation.", code="not_of_the_model", operation=str(op), f=f
            )
        micros.append((f, micro[1], micro[2] if len(micro) == 3 else None))
    return Transaction(op, tuple(micros))
