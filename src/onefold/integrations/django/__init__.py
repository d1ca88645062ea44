"""Django: a `tx` inside `transaction.atomic()`, and a database backend that takes the gate on SQLite.

    with transaction.atomic():
        Order.objects.create(...)
        ledger.transfer(onefold.django.use(), ...)

Django commits and rolls back; waiters are woken by its `on_commit`. On our SQLite file its
connections must wait their turn like everybody else: `"ENGINE": "onefold.integrations.django.sqlite"`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.db import transaction

from onefold.core.errors import Invalid
from onefold.engine.connect import POSTGRES, parse_postgres_url, sqlite_path
from onefold.engine.joined import JoinedTx
from onefold.integrations.django.block import Block


def database(url: str | Path) -> dict[str, Any]:
    """What `DATABASES` says for the database that `onefold.connect(url)` opens, on SQLite with the gate.

    Add to it what else Django should know: `{**onefold.django.database(URL), "CONN_MAX_AGE": 60}`.

    Raises:
        Invalid: `url` names neither.
    """
    text = str(url)
    if not text.startswith(POSTGRES):
        return {"ENGINE": "onefold.integrations.django.sqlite", "NAME": str(sqlite_path(text))}
    place = parse_postgres_url(text)
    return {"ENGINE": "django.db.backends.postgresql", "NAME": place.pop("dbname", None), "OPTIONS": place}


def use(using: Any = "default", *, space_name: str = "") -> JoinedTx:
    """A `tx` in the `atomic()` block that this thread is in. Django commits, or rolls back.

    It belongs to the innermost block, and is undone and over with it: inside an inner `atomic()` call
    `use` again. After an error outside `tx.savepoint()` Django refuses the rest of the block too, so
    that swallowing the error cannot commit half. Nothing is run again: who wants retries writes them
    around the outermost block.

    Args:
        using: the alias of a database, or `connections[alias]`.
        space_name: the space of the transaction.

    Raises:
        Invalid: there is no `atomic()` around it (code "autocommit"), the block can only roll back
            (code "not_ready"), or the database is neither SQLite nor PostgreSQL through psycopg 3.
        Conflict: the database has no Onefold schema.
    """
    connection = transaction.get_connection(using if isinstance(using, str) else using.alias)
    if not connection.in_atomic_block:
        raise Invalid("Django commits each statement here; say `with transaction.atomic():`.", code="autocommit")
    if connection.needs_rollback or connection.connection is None:
        raise Invalid("The atomic block had an error and can only roll back.", code="not_ready")
    block = Block(connection)
    if connection.vendor == "sqlite":
        from onefold.integrations.django.on_sqlite import join
    elif connection.vendor == "postgresql":
        from onefold.integrations.django.on_postgres import join
    else:
        raise Invalid("Onefold lives in SQLite and PostgreSQL.", got=connection.vendor)
    tx: JoinedTx = join(block, space_name=space_name)
    block.begin(tx.committed)
    return tx
