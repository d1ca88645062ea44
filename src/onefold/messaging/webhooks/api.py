"""Webhooks from outside: endpoints for whoever administers them, the log and replays for whoever is on call."""

from __future__ import annotations

from typing import Any

from onefold.core.route import Route
from onefold.engine.tx import Tx
from onefold.messaging.webhooks import endpoints, ops

_URL = "https://hooks.example.com/onefold"


def _made(tx: Tx) -> dict[str, Any]:
    return {"endpoint_id": endpoints.create(tx, _URL, key_id="k1", types=("order.*",)).id}


def _new(_tx: Tx) -> dict[str, Any]:
    return {"url": _URL, "key_id": "k1", "types": ("order.*",), "concurrency": 4, "per_second": 50}


def _sent(tx: Tx) -> dict[str, Any]:
    made = _made(tx)
    return {**made, "message_id": ops.send(tx, "order.placed", {"order": "order-1"})}


def _listed(tx: Tx) -> dict[str, Any]:
    return {"endpoint_id": _sent(tx)["endpoint_id"], "limit": 10}


def _range(tx: Tx) -> dict[str, Any]:
    return {**_listed(tx), "since_ms": tx.now_ms - 60_000, "until_ms": tx.now_ms + 1}


ROUTES = [
    Route("GET", "/webhooks/endpoints", endpoints.list_endpoints, "webhooks:read",
          lambda tx: {"limit": len(_made(tx)) + 9}),
    Route("POST", "/webhooks/endpoints", endpoints.create, "webhooks:write", _new),
    Route("GET", "/webhooks/endpoints/{endpoint_id}", endpoints.get, "webhooks:read", _made),
    Route("POST", "/webhooks/endpoints/{endpoint_id}/update", endpoints.update, "webhooks:write",
          lambda tx: {**_made(tx), "url": _URL, "concurrency": 2, "per_second": 5}),
    Route("POST", "/webhooks/endpoints/{endpoint_id}/rotate", endpoints.rotate, "webhooks:write",
          lambda tx: {**_made(tx), "key_id": "k2", "overlap_ms": 60_000}),
    Route("POST", "/webhooks/endpoints/{endpoint_id}/enable", endpoints.enable, "webhooks:write", _made),
    Route("POST", "/webhooks/endpoints/{endpoint_id}/disable", endpoints.disable, "webhooks:write",
          lambda tx: {**_made(tx), "why": "the receiver moves house"}),
    Route("DELETE", "/webhooks/endpoints/{endpoint_id}", endpoints.delete, "webhooks:write", _made),
    Route("GET", "/webhooks/endpoints/{endpoint_id}/attempts", ops.list_attempts, "webhooks:read", _listed),
    Route(
        "GET", "/webhooks/endpoints/{endpoint_id}/backlog", ops.backlog, "webhooks:read",
        lambda tx: {"endpoint_id": _listed(tx)["endpoint_id"]},
    ),
    Route("GET", "/webhooks/endpoints/{endpoint_id}/failed", ops.list_failed, "webhooks:read", _listed),
    Route("GET", "/webhooks/endpoints/{endpoint_id}/pending", ops.list_pending, "webhooks:read", _listed),
    Route("POST", "/webhooks/endpoints/{endpoint_id}/replay", ops.replay, "webhooks:write", _sent),
    Route("POST", "/webhooks/endpoints/{endpoint_id}/replay-failed", ops.replay_failed, "webhooks:write", _listed),
    Route("POST", "/webhooks/endpoints/{endpoint_id}/replay-range", ops.replay_range, "webhooks:write", _range),
    Route("POST", "/webhooks/messages", ops.send_message, "webhooks:write",
          lambda _tx: {"type": "order.placed", "payload": {"order": "order-1"}}),
]  # fmt: skip
