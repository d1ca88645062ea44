"""Routes of the audit trail: for reading. Entries are written by what acts, in its own transaction."""

from __future__ import annotations

from typing import Any

from onefold.core.route import Route
from onefold.engine.tx import Tx
from onefold.identity.audit import ops


def _one(tx: Tx) -> dict[str, Any]:
    entry = ops.record(tx, "jobs.retry", "job_1", actor="token_1", reason="The mail server is back.")
    return {"entry_id": entry.id}


def _some(tx: Tx) -> dict[str, Any]:
    _one(tx)
    return {"limit": 10}


ROUTES = (
    Route("GET", "/audit", ops.list_entries, "audit:read", _some),
    Route("GET", "/audit/{entry_id}", ops.get, "audit:read", _one),
)
