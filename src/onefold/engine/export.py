"""Reading all rows of tables from one snapshot, row by row: `onefold export`.

Not through a reader of the engine: those have a deadline, and an export takes as long as it takes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from onefold.core.errors import Invalid
from onefold.engine import schema
from onefold.engine.postgres.asking import asking
from onefold.engine.sql import Dialect
from onefold.index import schema_directories

FETCH_ROWS = 1_000  # Held in memory at once.

_TABLE = re.compile(r"CREATE TABLE onefold[._](\w+)")


class Snapshot(Protocol):
    """What was committed at one moment."""

    def tables(self) -> set[str]:
        """The tables of Onefold that are there, as "jobs_ready"."""
        ...

    def rows(self, table: str, space: int | None) -> Iterator[dict[str, Any]]:
        """All rows of a table by column, in no order; of one space, where the table has spaces."""
        ...


def tables_of(blocks: Sequence[str], dialect: Dialect) -> dict[str, list[str]]:
    """The tables of each block, as "jobs_ready"; the engine's own are those of "engine".

    Raises:
        Invalid: there is no such block.
    """
    found: dict[str, list[str]] = {}
    for file in schema.load(schema_directories()):
        made = (_TABLE.match(statement) for statement in file.statements(dialect))
        found.setdefault(file.block, []).extend(match[1] for match in made if match)
    unknown = [block for block in blocks if block not in found]
    if unknown:
        raise Invalid("There is no such block.", block=unknown[0][:100], known=sorted(found))
    return {block: found[block] for block in blocks or found}


@contextlib.contextmanager
def snapshot_of(url: str | Path, dialect: Dialect) -> Generator[Snapshot]:
    """Open a snapshot. While it is open SQLite's WAL grows, and PostgreSQL keeps dead rows.

    Raises:
        Retry: the database cannot be reached, or its gate is not to be had.
        Invalid: it refuses what is asked.
    """
    if dialect == "sqlite":
        from onefold.engine.sqlite.snapshot import snapshot

        with snapshot(Path(url)) as connection:
            yield _Sqlite(connection)
        return
    import psycopg

    with asking(str(url), name="onefold export", autocommit=False) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        yield _Postgres(connection)


class _Sqlite:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def tables(self) -> set[str]:
        rows = self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {name.removeprefix("onefold_") for (name,) in rows if name.startswith("onefold_")}

    def rows(self, table: str, space: int | None) -> Iterator[dict[str, Any]]:
        cursor = self._connection.execute(f"SELECT * FROM onefold_{table} LIMIT 0")  # noqa: S608  Of a schema file.
        columns = [column[0] for column in cursor.description]
        where, values = (" WHERE space = ?", (space,)) if space is not None and "space" in columns else ("", ())
        for row in self._connection.execute(f"SELECT * FROM onefold_{table}{where}", values):  # noqa: S608  The same.
            yield dict(zip(columns, row, strict=True))


class _Postgres:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def tables(self) -> set[str]:
        rows = self._connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'onefold'").fetchall()
        return {name for (name,) in rows}

    def rows(self, table: str, space: int | None) -> Iterator[dict[str, Any]]:
        head = self._connection.execute(f"SELECT * FROM onefold.{table} LIMIT 0")  # noqa: S608  Of a schema file.
        columns = [column.name for column in head.description]
        where, values = (" WHERE space = %s", (space,)) if space is not None and "space" in columns else ("", ())
        with self._connection.cursor("onefold_export") as cursor:  # At the server: a page at a time comes here.
            cursor.itersize = FETCH_ROWS
            cursor.execute(f"SELECT * FROM onefold.{table}{where}", values)  # noqa: S608  The same.
            for row in cursor:
                yield dict(zip(columns, row, strict=True))
