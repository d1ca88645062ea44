"""Queues that are drained in the end: what goes in has to come out.

Like the checker `total-queue` of Jepsen: it counts, and looks at no order, so that it can judge histories that
are far too long for linearizability. A queue that delivers at least once is right.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from onefold.core.errors import Invalid
from onefold.testing.checkers.history import History, Operation, show
from onefold.testing.checkers.verdict import Findings, Verdict, unknown


def check_total_queue(history: History) -> Verdict:
    """Compare what was put in by `enqueue` with what came out of `dequeue` and `drain` (which answers a list).

    `lost`: an acknowledged enqueue never came out, though the queue was drained. `unexpected`: nobody tried to
    put it in. Told as notes: `duplicated`, which came out more often than it was put in, and `recovered`, which
    came out although its enqueue was not acknowledged. A `dequeue` that answers nil took nothing.

    Raises:
        Invalid: an operation is none of these; a drain answered no list.
    """
    puts = [op for op in history.operations if op.f == "enqueue"]
    taken: dict[Any, list[Operation]] = {}
    for op in history.where("ok"):
        for value in _taken(op):
            taken.setdefault(value, []).append(op)
    if not taken:
        return unknown("total-queue", "Nothing came out of the queue.")
    came = Counter({value: len(ops) for value, ops in taken.items()})
    tried = Counter(op.input for op in puts)
    acknowledged = Counter(op.input for op in puts if op.type == "ok")
    findings = Findings()
    for op in puts:
        if op.type == "ok" and acknowledged[op.input] > came[op.input]:
            acknowledged[op.input] -= 1
            findings.add("lost", f"{show(op.input)} went in and never came out.", [op])
    for value, ops in taken.items():
        if value not in tried:
            findings.add("unexpected", f"Nobody put {show(value)} in.", ops)
    again = (came - tried).total() - sum(came[value] for value in came.keys() - tried.keys())
    notes = [f"{again:,} came out more often than they were put in."] if again else []
    if recovered := ((came & tried) - Counter(op.input for op in puts if op.type == "ok")).total():
        notes.append(f"{recovered:,} came out whose enqueue was not acknowledged.")
    crashed = sum(op.type == "info" and op.f != "enqueue" for op in history.operations)
    if crashed and "lost" in findings.counts:
        notes.append(f"{crashed:,} of unknown outcome can have taken what is lost.")
    if "lost" in findings.counts and not any(op.f == "drain" for op in history.where("ok")):
        notes.append("Nothing drained the queue: what is lost may be in it still.")
    stats = {"enqueues": len(puts), "acknowledged": sum(op.type == "ok" for op in puts), "dequeued": came.total()}
    return findings.verdict("total-queue", stats, notes)


def _taken(op: Operation) -> tuple[Any, ...]:
    if op.f == "dequeue":
        return () if op.output is None else (op.output,)
    if op.f == "drain" and (op.output is None or isinstance(op.output, tuple)):
        return op.output or ()
    if op.f == "enqueue":
        return ()
    raise Invalid(
        "The model does not know this operation.", code="not_of_the_model", model="total-queue", operation=str(op)
    )
