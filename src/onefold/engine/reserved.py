"""Functions that keep a process alive, and may use the connections that are kept for them.

    @reserved
    def renew(tx: Tx, lease: Lease) -> Lease: ...

On PostgreSQL two connections (and two threads for tasks) serve only these: a crowd of slow calls
must not make a living process look dead. On SQLite nothing is reserved; the mark does no harm.
"""

from __future__ import annotations

from typing import Any, TypeVar

from onefold.engine.call import without_arguments

F = TypeVar("F")

_MARK = "onefold_reserved"


def reserved(fn: F) -> F:
    """Mark a function for heartbeats, lease renewals and readiness checks: short ones only."""
    setattr(fn, _MARK, True)
    return fn


def is_reserved(fn: Any) -> bool:
    """Whether `fn` was marked, or is a partial of one that was."""
    return getattr(without_arguments(fn), _MARK, False) is True
