"""Routes of sessions: who is logged in, and an end to it. They begin by a login, not over the API."""

from __future__ import annotations

from typing import Any

from onefold.core.route import Route
from onefold.engine.tx import Tx
from onefold.identity import tokens
from onefold.identity.sessions import ops

_DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def _one(tx: Tx) -> dict[str, Any]:
    token = tokens.create(tx, "Ana", digest=_DIGEST, rights=("jobs:*",))
    return {"session_id": ops.begin(tx, token.id, digest=_DIGEST).id}


def _some(tx: Tx) -> dict[str, Any]:
    _one(tx)
    return {"limit": 10}


ROUTES = (
    Route("GET", "/sessions", ops.list_sessions, "sessions:read", _some),
    Route("POST", "/sessions/{session_id}/end", ops.end, "sessions:write", _one),
)
