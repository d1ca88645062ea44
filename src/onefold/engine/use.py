"""`onefold.use`: a `tx` inside a transaction that somebody else began and will end."""

from __future__ import annotations

import importlib
from typing import Any

from onefold.core.errors import Invalid
from onefold.engine.joined import JoinedTx

# Which function joins a connection of which library; found by name, so that no library is imported
# that the program does not use.
_JOINERS = {
    "sqlite3": ("onefold.engine.sqlite.joined", "join_sqlite"),
    "psycopg": ("onefold.engine.postgres.joined", "join_postgres"),
    "sqlalchemy": ("onefold.integrations.sqlalchemy", "use"),
    "django": ("onefold.integrations.django", "use"),
}


def use(connection: Any, *, space_name: str = "") -> JoinedTx:
    """Give a `tx` over `connection`, which stays its owner's: the owner commits, rolls back, retries.

    Isolation is the owner's too; every block is correct at READ COMMITTED. After the owner's
    COMMIT call `tx.committed()`, so that whoever waits is woken; without it they find the work
    at their next poll (at most 250 ms on SQLite, the loop's own rest on PostgreSQL). A SQLAlchemy
    Session does that by itself.

    Args:
        connection: of sqlite3, psycopg or Django, or a Connection or Session of SQLAlchemy, in a
            transaction; one in autocommit is refused.
        space_name: the space of the transaction.

    Raises:
        Invalid: the connection is of another library, or in autocommit.
        Conflict: the schema in there is not this release's.
    """
    for kind in type(connection).__mro__:
        joiner = _JOINERS.get(kind.__module__.partition(".")[0])
        if joiner is not None:
            module, function = joiner
            return getattr(importlib.import_module(module), function)(connection, space_name=space_name)
    raise Invalid(
        "use takes a connection of sqlite3, psycopg, SQLAlchemy or Django.", got=type(connection).__qualname__
    )
