"""The four session guarantees, for systems whose reads and writes answer a version.

D. Terry et al.: Session guarantees for weakly consistent replicated data (1994). A version is a number
that grows with each write of a key: a counter, a position in a log. A session is a process.
"""

from __future__ import annotations

from typing import Any

import msgspec

from onefold.core.errors import Invalid
from onefold.testing.checkers.history import History, Operation, show
from onefold.testing.checkers.verdict import Findings, Verdict

READ_YOUR_WRITES = "read-your-writes"
MONOTONIC_READS = "monotonic-reads"
MONOTONIC_WRITES = "monotonic-writes"
WRITES_FOLLOW_READS = "writes-follow-reads"
GUARANTEES = (READ_YOUR_WRITES, MONOTONIC_READS, MONOTONIC_WRITES, WRITES_FOLLOW_READS)
_READS, _WRITES = {"read", "r", "get"}, {"write", "w", "put"}


def check_sessions(history: History) -> Verdict:
    """Look for reads and writes of a process that go backwards.

    Operations are `read` and `write` of a key (a field of the event, or [key version] as value; else there
    is one key), each answering its version; a read of nothing answers nil. Only what is known to have
    happened counts.

    Raises:
        Invalid: an answer is no version; an operation is neither read nor write.
    """
    findings = Findings()
    read: dict[Any, tuple[Any, Operation]] = {}  # By process and key: the highest version, and by which operation.
    written: dict[Any, tuple[Any, Operation]] = {}
    count = 0
    for op in history.where("ok"):
        key, version = _versioned(op)
        at = (op.process, key)
        count += 1
        if op.f in _READS:
            _compare(findings, READ_YOUR_WRITES, written.get(at), version, op, strictly=False)
            _compare(findings, MONOTONIC_READS, read.get(at), version, op, strictly=False)
            _raise(read, at, version, op)
        else:
            _compare(findings, MONOTONIC_WRITES, written.get(at), version, op, strictly=True)
            _compare(findings, WRITES_FOLLOW_READS, read.get(at), version, op, strictly=True)
            _raise(written, at, version, op)
    verdict = findings.verdict("sessions", {"operations": count})
    broken = [one for one in GUARANTEES if one in findings.counts]
    above = (["pram"] if set(broken) - {WRITES_FOLLOW_READS} else []) + (["causal", "sequential"] if broken else [])
    return msgspec.structs.replace(verdict, not_models=broken, also_not=above)


def _compare(findings: Findings, name: str, before: Any, version: float, op: Operation, *, strictly: bool) -> None:
    if before is None:
        return
    highest, earlier = before
    if version < highest or (strictly and version == highest):
        text = f"{show(version)} came after {show(highest)} in process {show(op.process)}."
        findings.add(name, text, [earlier, op])


def _raise(highest: dict[Any, tuple[Any, Operation]], at: Any, version: float, op: Operation) -> None:
    if at not in highest or version > highest[at][0]:
        highest[at] = (version, op)


def _versioned(op: Operation) -> tuple[Any, Any]:
    """The key of an operation, and the version that it answered: a number."""
    if op.f not in _READS | _WRITES:
        raise Invalid("The model does not know this operation.", code="not_of_the_model", operation=str(op))
    key, value = op.key, op.output
    version: Any = value
    if key is None and isinstance(value, tuple) and len(value) == 2:
        key, version = value
    if version is None and op.f in _READS:
        return key, float("-inf")
    if type(version) not in {int, float}:
        raise Invalid("An operation answered no version.", code="not_of_the_model", operation=str(op))
    return key, version
