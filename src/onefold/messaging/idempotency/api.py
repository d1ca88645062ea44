"""Idempotency from outside: `once` works under every POST; this looks at what it stored."""

from __future__ import annotations

from typing import Any

from onefold.core.route import Route
from onefold.engine.tx import Tx
from onefold.messaging.idempotency import ops


def _answered(tx: Tx) -> dict[str, Any]:
    ops.once(tx, "b7d1", lambda: {"order": 1}, scope="POST /orders", request={"seats": 2})
    return {"key": "b7d1", "scope": "POST /orders"}


ROUTES = [Route("GET", "/idempotency/answer", ops.answer_of, "idempotency:read", _answered)]
