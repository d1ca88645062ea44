"""Routes of tokens. They act in the caller's space; only tokens of the root space are ever verified."""

from __future__ import annotations

from typing import Any

from onefold.core.route import Route
from onefold.engine.tx import Tx
from onefold.identity.tokens import ops

_DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def _new(_tx: Tx) -> dict[str, Any]:
    return {"name": "checkout", "digest": _DIGEST, "rights": ("booking:*",)}


def _one(tx: Tx) -> dict[str, Any]:
    return {"token_id": ops.create(tx, "checkout", digest=_DIGEST, rights=("booking:*",)).id}


def _some(tx: Tx) -> dict[str, Any]:
    _one(tx)
    return {}


ROUTES = (
    Route("POST", "/tokens", ops.create, "tokens:write", _new, caller="by"),
    Route("GET", "/tokens", ops.list_tokens, "tokens:read", _some),
    Route("POST", "/tokens/{token_id}/revoke", ops.revoke, "tokens:write", _one),
)
