"""What a checker says of a history."""

from __future__ import annotations

from typing import Any, LiteralString

import msgspec

from onefold.testing.checkers.history import Operation, show

ANOMALIES_SHOWN_MAX = 8  # Of each kind; their number is told.


class Anomaly(msgspec.Struct, frozen=True):
    """One thing that must not be, and the operations that show it."""

    name: str
    """`nonlinearizable`, `G-single-item`, `lost-update`, ..."""
    text: str
    operations: list[Operation] = []
    steps: list[str] = []
    """Of a cycle: what leads from each operation to the next, and from the last to the first."""
    last: Operation | None = None
    """Of a history without linearization: the operation at whose return none was left."""


class Verdict(msgspec.Struct, frozen=True):
    """Valid, invalid or unknown, and why."""

    checker: str
    valid: bool | None
    """None: unknown; `reason` says why."""
    anomalies: list[Anomaly] = []
    """At most `ANOMALIES_SHOWN_MAX` of each name; `counts` has the numbers."""
    counts: dict[str, int] = {}
    not_models: list[str] = []
    """Of a transactional history: the weakest consistency models that it rules out."""
    also_not: list[str] = []
    """All stronger ones, which are then ruled out too."""
    strongest_models: list[str] = []
    """The strongest models that nothing that was found rules out."""
    reason: str = ""
    notes: list[str] = []
    stats: dict[str, int] = {}
    context: list[Operation] = []
    """More operations for the drawing: what happened around those of the first anomaly."""

    @property
    def word(self) -> str:
        """`valid`, `invalid` or `unknown`."""
        return {True: "valid", False: "invalid", None: "unknown"}[self.valid]

    def lines(self) -> list[str]:
        """The verdict as people read it."""
        stats = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in self.stats.items())
        lines = [f"{self.word}: {self.checker}{f' ({stats})' if stats else ''}"]
        if self.reason:
            lines.append(self.reason)
        if self.not_models:
            lines.append(f"It is not: {', '.join(self.not_models)}.")
            lines.append(f"Nor then: {', '.join(self.also_not) or 'nothing else'}.")
        if self.strongest_models:
            lines.append(f"Not ruled out: {', '.join(self.strongest_models)}, and what is weaker.")
        for name, count in self.counts.items():
            lines.append(f"{name}: {count:,}")
            for anomaly in self.anomalies:
                if anomaly.name == name:
                    lines += [f"  {line}" for line in anomaly.text.splitlines()]
                    lines += [f"    {op}" for op in anomaly.operations]
        return lines + [f"Note: {note}" for note in self.notes]

    def facts(self) -> dict[str, Any]:
        """The verdict as JSON shows it."""
        return {
            "valid": {True: True, False: False, None: "unknown"}[self.valid],
            "checker": self.checker,
            "reason": self.reason,
            "anomalies": {
                name: [
                    {"text": one.text, "operations": [operation_facts(op) for op in one.operations], "steps": one.steps}
                    for one in self.anomalies if one.name == name
                ]
                for name in self.counts
            },
            "counts": self.counts,
            "not": self.not_models,
            "also_not": self.also_not,
            "strongest": self.strongest_models,
            "notes": self.notes,
            "stats": self.stats,
        }  # fmt: skip


class Findings:
    """Anomalies as they are found: all are counted, the first few of each name kept."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.kept: list[Anomaly] = []

    def add(self, name: str, text: str, operations: list[Operation], steps: list[str] | None = None) -> None:
        """Count one, and keep it while there are few of its name."""
        count = self.counts[name] = self.counts.get(name, 0) + 1
        if count <= ANOMALIES_SHOWN_MAX:
            self.kept.append(Anomaly(name, text, operations, steps or []))

    def verdict(self, checker: str, stats: dict[str, int], notes: list[str] | None = None) -> Verdict:
        """Invalid when anything was found."""
        return Verdict(checker, not self.counts, self.kept, self.counts, notes=notes or [], stats=stats)


def unknown(checker: str, reason: LiteralString, stats: dict[str, int] | None = None) -> Verdict:
    """A verdict of a checker that cannot tell."""
    return Verdict(checker, None, reason=reason, stats=stats or {})


def operation_facts(op: Operation) -> dict[str, Any]:
    """An operation as JSON shows it."""
    return {
        "index": op.index, "process": show(op.process), "type": op.type, "f": op.f,
        "input": show(op.input), "output": show(op.output), "text": str(op),
    }  # fmt: skip
