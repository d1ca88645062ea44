"""A connection of its own to look at a server with, as `doctor`, `backup` and `export` do."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

from onefold.core.errors import Invalid, Retry

CONNECT_S = 5


@contextlib.contextmanager
def asking(url: str, *, name: str, autocommit: bool = True) -> Generator[Any]:
    """A connection for a block that asks and changes nothing; closed at its end.

    Args:
        url: of the database.
        name: what the server calls the connection, for people.
        autocommit: whether each question sees what is committed by then; else all are of one transaction.

    Raises:
        Retry: the server cannot be reached, in the block too.
        Invalid: it refuses what is asked.
    """
    import psycopg

    from onefold.engine.postgres.errors import first_line
    from onefold.engine.postgres.pool import conninfo_of

    conninfo = conninfo_of(url).decode()
    try:
        with psycopg.connect(
            conninfo, autocommit=autocommit, connect_timeout=CONNECT_S, application_name=name
        ) as connection:
            yield connection
    except psycopg.OperationalError as error:
        raise Retry("PostgreSQL cannot be reached.", code="unavailable", why=first_line(error)) from error
    except psycopg.Error as error:
        raise Invalid("PostgreSQL refuses what is asked.", why=first_line(error)) from error
