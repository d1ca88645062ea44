"""Onefold: the systems of a back end over one transaction; README.md begins with an example."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from onefold.core.errors import Conflict, Denied, Doomed, Invalid, NotFound, OnefoldError, Retry, Unknown
from onefold.core.money import Money
from onefold.core.page import Page
from onefold.engine.connect import connect, migrate
from onefold.engine.database import Database, Handle
from onefold.engine.tx import Tx, operation
from onefold.engine.use import use
from onefold.index import BLOCKS, BRIDGES

if TYPE_CHECKING:
    from onefold.coordination import locks
    from onefold.identity import audit, sessions, tokens
    from onefold.integrations import alembic, django, idempotent_routes, sqlalchemy
    from onefold.messaging import events, idempotency, jobs, webhooks
    from onefold.products import booking, ledger, payments
    from onefold.server import asgi

__all__ = [
    "Conflict", "Database", "Denied", "Doomed", "Handle", "Invalid", "Money", "NotFound", "OnefoldError",
    "Page", "Retry", "Tx", "Unknown", "alembic", "asgi", "audit", "booking", "connect", "django", "events",
    "idempotency", "idempotent_routes", "jobs", "ledger", "locks", "migrate", "operation", "payments", "sessions",
    "sqlalchemy", "tokens", "use", "webhooks",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "asgi":
        return importlib.import_module("onefold.server").asgi
    if module := BLOCKS.get(name) or BRIDGES.get(name):
        return importlib.import_module(module)
    raise AttributeError(f"module 'onefold' has no attribute {name!r}")
