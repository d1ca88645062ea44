"""Insertions that are seen in an order in which nobody made them. Like `sequential` and `comments` of Jepsen.

Both insert things one after the other, and look at what a later read shows: with sequential consistency whatever a
client inserted first is there if a later one is, with strict serializability so is whatever anybody had inserted.
"""

from __future__ import annotations

from typing import Any

from onefold.core.errors import Invalid
from onefold.testing.checkers.history import History, Operation, show
from onefold.testing.checkers.verdict import Findings, Verdict, unknown


def check_sequential(history: History) -> Verdict:
    """Look at each `read`, which answers what a client inserted, the latest first, and nil for what it did not see.

    The answer is a list, or [key list]. `inversion`: a later one is there, and one before it is not. Other
    operations are not looked at.

    Raises:
        Invalid: a read answered no list.
    """
    findings = Findings()
    reads = [op for op in history.where("ok") if op.f == "read"]
    for op in reads:
        answer = op.output
        if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], tuple):
            answer = answer[1]
        if not isinstance(answer, tuple):
            raise _unknown(op, "sequential")
        there = [n for n, one in enumerate(answer) if one is not None]
        missing = [n for n, one in enumerate(answer) if one is None]
        if there and missing and missing[-1] > there[0]:
            findings.add("inversion", f"It saw {show(answer[there[0]])}, and not what was inserted before it.", [op])
    if not reads:
        return unknown("sequential", "Nothing was read.")
    return findings.verdict("sequential", {"reads": len(reads)})


def check_comments(history: History) -> Verdict:
    """Follow each `write` of a value of its own through every `read`, which answers all values.

    `causal-reverse`: a read shows one, and misses another whose write had ended when that of the first began.

    Raises:
        Invalid: an operation is neither; a read answered no set or list.
    """
    writes: dict[Any, Operation] = {}
    reads: list[Operation] = []
    for op in history.operations:
        if op.f == "write":
            writes.setdefault(op.input, op)
        elif op.f == "read" and op.type == "ok" and isinstance(op.output, (tuple, frozenset)):
            reads.append(op)
        elif op.f not in {"read", "write"} or (op.type == "ok" and op.f == "read" and op.output is not None):
            raise _unknown(op, "comments")
    if not reads or not writes:
        return unknown("comments", "Nothing was written, or nothing read.")
    ended = sorted((op for op in writes.values() if op.type == "ok"), key=lambda op: op.completed)
    findings = Findings()
    for read in reads:
        there = frozenset(read.output)
        latest = max((writes[one] for one in there & writes.keys()), key=lambda op: op.invoked, default=None)
        if latest is None:
            continue
        missed = next((op for op in ended if op.input not in there), latest)
        if missed.completed < latest.invoked:
            text = f"It saw {show(latest.input)}, and not {show(missed.input)}, which was written before."
            findings.add("causal-reverse", text, [missed, latest, read])
    return findings.verdict("comments", {"writes": len(writes), "reads": len(reads)})


def _unknown(op: Operation, model: str) -> Invalid:
    return Invalid("The model does not know this operation.", code="not_of_the_model", model=model, operation=str(op))
