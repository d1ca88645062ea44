"""Events from outside. Names of streams stand in bodies and queries, because they hold slashes."""

from __future__ import annotations

from typing import Any

from onefold.core.route import Route
from onefold.engine.tx import Tx
from onefold.messaging.events import ops, subscriptions
from onefold.messaging.events.records import NewEvent


def _new(_tx: Tx) -> dict[str, Any]:
    placed = NewEvent("order.placed", {"order": "7", "seats": 2})
    return {"stream": "order/7", "events": [placed], "expected": "absent", "correlation": "request/1"}


def _appended(tx: Tx) -> None:
    ops.append_json(tx, **_new(tx))


def _stream(tx: Tx) -> dict[str, Any]:
    _appended(tx)
    return {"stream": "order/7", "after": 0, "limit": 10}


def _subscribed(tx: Tx) -> dict[str, Any]:
    subscriptions.subscribe(tx, "receipts", category="order")
    return {"name": "receipts"}


def _parked(tx: Tx) -> dict[str, Any]:
    return {"subscription": _subscribed(tx)["name"], "stream": "order/7"}


ROUTES = [
    Route("POST", "/events", ops.append_json, "events:write", _new),
    Route("GET", "/events", ops.read_all, "events:read", lambda tx: {"after": _stream(tx)["after"], "limit": 10}),
    Route("GET", "/events/stream", ops.read_stream, "events:read", _stream),
    Route("GET", "/events/version", ops.version_of, "events:read", lambda tx: {"stream": _stream(tx)["stream"]}),
    Route(
        "GET", "/events/category", ops.read_category, "events:read",
        lambda tx: {"after": _stream(tx)["after"], "category": "order", "limit": 10},
    ),
    Route(
        "GET", "/events/chain", ops.read_correlation, "events:read",
        lambda tx: {"limit": _stream(tx)["limit"], "correlation": "request/1"},
    ),
    Route("GET", "/events/head", ops.head, "events:read"),
    Route(
        "GET", "/events/position", ops.position_of, "events:read",
        lambda tx: {"event_id": _stream(tx)["stream"] + "@1"},
    ),
    Route(
        "POST", "/events/subscriptions", subscriptions.subscribe, "events:write",
        lambda _tx: {"name": "receipts", "category": "order", "after": 0},
    ),
    Route(
        "GET", "/events/subscriptions", subscriptions.list_subscriptions, "events:read",
        lambda tx: {"limit": 10 if _subscribed(tx) else 1},
    ),
    Route("GET", "/events/subscriptions/of", subscriptions.subscription_of, "events:read", _subscribed),
    Route("POST", "/events/subscriptions/remove", subscriptions.remove_subscription, "events:write", _subscribed),
    Route(
        "GET", "/events/parked", subscriptions.list_parked, "events:read",
        lambda tx: {"subscription": _subscribed(tx)["name"], "limit": 10},
    ),
    Route("POST", "/events/parked/retry", subscriptions.request_retry, "events:write", _parked),
    Route(
        "GET", "/events/parked/retries", subscriptions.list_retries, "events:read",
        lambda tx: {"subscription": _subscribed(tx)["name"], "limit": 10},
    ),
    Route("POST", "/events/parked/drop", subscriptions.drop_parked, "events:write", _parked),
]  # fmt: skip
