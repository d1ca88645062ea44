"""Sets that are added to and read whole: which elements were lost, stale, or there twice.

Like the checker `set-full` of Jepsen. It needs no search, so that it can judge histories that are far
too long for linearizability.
"""

from __future__ import annotations

from typing import Any

import msgspec

from onefold.testing.checkers.history import NEVER, History, Operation, show
from onefold.testing.checkers.verdict import Findings, Verdict, unknown


def check_set_full(history: History, *, linearizable: bool = False) -> Verdict:
    """Follow each element from `add` (its input) through every `read` (which answers all elements).

    An element is known when its add was answered or a read showed it. `lost`: a read that began
    afterwards misses it, and so do all later ones. `stale`: a read that began afterwards misses it, and a
    later one has it. `duplicated`: one read has it twice. `unexpected`: nobody tried to add it.

    Args:
        linearizable: stale elements are an anomaly; otherwise only a note.
    """
    adds: dict[Any, list[Operation]] = {}
    for op in history.operations:
        if op.f == "add":
            adds.setdefault(op.input, []).append(op)
    reads = [op for op in history.where("ok") if op.f == "read" and op.output is not None]
    if not reads or not adds:
        return unknown("set-full", "Nothing was added, or nothing read.")
    findings = Findings()
    seen = [(op, _elements(op, findings)) for op in reads]
    known = _known(adds, seen)
    for op, elements in seen:
        for one in elements - adds.keys():
            findings.add("unexpected", f"Nobody added {show(one)}.", [op])
    present = _latest(set(adds), seen, has=True)
    absent = _latest(set(adds), seen, has=False)
    stale = 0
    for element, ops in adds.items():
        missed, had = absent.get(element), present.get(element)
        if missed is None or known.get(element, NEVER) >= missed.invoked:
            continue
        if had is None or had.invoked < missed.invoked:
            findings.add("lost", f"{show(element)} was there, and is missing to the end.", [*ops[:1], missed])
        else:
            stale += 1
            if linearizable:
                text = f"{show(element)} was there already; a read missed it, a later one has it."
                findings.add("stale", text, [*ops[:1], missed, had])
    notes = [f"{stale:,} elements were stale: a read missed them after they were known."] if stale else []
    stats = {"elements": len(adds), "reads": len(reads)}
    verdict = findings.verdict("set-full", stats, [] if linearizable else notes)
    if verdict.valid and not present:
        return msgspec.structs.replace(verdict, valid=None, reason="No element was ever read.")
    return verdict


def _elements(op: Operation, findings: Findings) -> set[Any]:
    values = op.output if isinstance(op.output, (tuple, frozenset)) else (op.output,)
    elements = set(values)
    if len(elements) < len(values):
        twice = next(one for one in elements if list(values).count(one) > 1)
        findings.add("duplicated", f"{show(twice)} is there several times.", [op])
    return elements


def _known(adds: dict[Any, list[Operation]], seen: list[tuple[Operation, set[Any]]]) -> dict[Any, int]:
    """When it was first known that an element is there."""
    known = {one: min(op.completed for op in ops if op.type == "ok") for one, ops in adds.items()
             if any(op.type == "ok" for op in ops)}  # fmt: skip
    unseen = set(adds)
    for op, elements in sorted(seen, key=lambda read: read[0].completed):
        for one in unseen & elements:
            known[one] = min(known.get(one, NEVER), op.completed)
        unseen -= elements
    return known


def _latest(elements: set[Any], seen: list[tuple[Operation, set[Any]]], *, has: bool) -> dict[Any, Operation]:
    """By element, the read that began last among those that have it, or that miss it."""
    found: dict[Any, Operation] = {}
    left = set(elements)
    for op, there in reversed(seen):
        now = left & there if has else left - there
        found.update(dict.fromkeys(now, op))
        left -= now
        if not left:
            break
    return found
