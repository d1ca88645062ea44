"""Generators of ids: none is given twice. Like the checker `unique-ids` of Jepsen."""

from __future__ import annotations

from typing import Any

from onefold.core.errors import Invalid
from onefold.testing.checkers.history import History, Operation, show
from onefold.testing.checkers.verdict import Findings, Verdict, unknown


def check_unique_ids(history: History) -> Verdict:
    """Look for answers of `generate` that are equal: `duplicated`.

    Raises:
        Invalid: there is another operation.
    """
    given: dict[Any, list[Operation]] = {}
    for op in history.operations:
        if op.f != "generate":
            raise Invalid(
                "The model does not know this operation.",
                code="not_of_the_model", model="unique-ids", operation=str(op),
            )  # fmt: skip
        if op.type == "ok":
            given.setdefault(op.output, []).append(op)
    if not given:
        return unknown("unique-ids", "No id was given.")
    findings = Findings()
    for value, ops in given.items():
        if len(ops) > 1:
            findings.add("duplicated", f"{show(value)} was given {len(ops):,} times.", ops[:8])
    return findings.verdict("unique-ids", {"ids": len(given)})
