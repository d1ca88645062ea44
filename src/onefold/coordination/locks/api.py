"""Locks from outside. Names stand in bodies and queries, because they may hold slashes."""

from __future__ import annotations

from typing import Any

from onefold.coordination.locks import ops
from onefold.core.route import Route
from onefold.engine.tx import Tx


def _ask(_tx: Tx) -> dict[str, Any]:
    return {"name": "invoice/42", "owner": "worker-1", "ttl_ms": 30_000}


def _held(tx: Tx) -> ops.Lock:
    return ops.acquire(tx, **_ask(tx))


def _name(tx: Tx) -> dict[str, Any]:
    return {"name": _held(tx).name}


ROUTES = [
    Route("POST", "/locks/acquire", ops.acquire, "locks:write", _ask),
    Route("POST", "/locks/renew", ops.renew, "locks:write", lambda tx: {"lock": _held(tx), "ttl_ms": 30_000}),
    Route("POST", "/locks/release", ops.release, "locks:write", lambda tx: {"lock": _held(tx)}),
    Route(
        "POST", "/locks/force-release", ops.force_release, "locks:admin",
        lambda tx: {**_name(tx), "reason": "Its holder is gone."},
    ),
    Route("GET", "/locks/of", ops.lock_of, "locks:read", _name),
    Route("GET", "/locks", ops.list_locks, "locks:read", lambda tx: {"prefix": _name(tx)["name"], "limit": 10}),
]  # fmt: skip
