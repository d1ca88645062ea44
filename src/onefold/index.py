"""The index of blocks: adding one adds one line here.

`from onefold import jobs` finds `onefold.messaging.jobs` through it, lazily; `connect` finds
the schema files of all of them.
"""

from __future__ import annotations

from pathlib import Path

BLOCKS: dict[str, str] = {
    "locks": "onefold.coordination.locks",
    "idempotency": "onefold.messaging.idempotency",
    "jobs": "onefold.messaging.jobs",
    "events": "onefold.messaging.events",
    "webhooks": "onefold.messaging.webhooks",
    "ledger": "onefold.products.ledger",
    "booking": "onefold.products.booking",
    "payments": "onefold.products.payments",
    "tokens": "onefold.identity.tokens",
    "sessions": "onefold.identity.sessions",
    "audit": "onefold.identity.audit",
}

# Bridges to other libraries, found the same way: `onefold.sqlalchemy`.
BRIDGES: dict[str, str] = {
    "sqlalchemy": "onefold.integrations.sqlalchemy",
    "django": "onefold.integrations.django",
    "alembic": "onefold.integrations.alembic",
    "idempotent_routes": "onefold.integrations.idempotent_routes",
}

_ROOT = Path(__file__).parent


def folder_of(block: str) -> Path:
    """Where the block lives."""
    return _ROOT.joinpath(*BLOCKS[block].split(".")[1:])


def schema_directories() -> list[tuple[str, Path]]:
    """`(block, directory)` of every block that has tables, in the order of the index."""
    return [(name, folder_of(name) / "schema") for name in BLOCKS if (folder_of(name) / "schema").is_dir()]
