"""From a URL to a `Database`, and from an old schema to the one that this release needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onefold.core.clock import SYSTEM, Clock
from onefold.core.errors import Invalid
from onefold.engine import schema
from onefold.engine.call import Durability
from onefold.engine.database import Database
from onefold.engine.telling import Tell, quiet
from onefold.index import schema_directories

POSTGRES = ("postgresql://", "postgres://")  # How its URLs begin.


def connect(
    url: str | Path,
    *,
    durability: Durability = "always",
    rehearse: bool = False,
    clock: Clock | None = None,
    files: Sequence[schema.SchemaFile] | None = None,
    pool_max: int = 12,
) -> Database:
    """Open a database: a path for SQLite, "postgresql://..." for PostgreSQL.

    SQLite creates and migrates its file by itself. PostgreSQL must have been migrated
    (`onefold migrate --url URL`).

    Args:
        url: "shop.db", "/var/lib/shop.db", "sqlite:///shop.db", or a PostgreSQL URL.
        durability: "always" waits for the disk at every commit; "everysec" may lose the last
            second when the machine (not the process) dies.
        rehearse: for tests; run every function, roll it back, run it again and compare, so that
            a function that is not repeatable fails the day it is written.
        clock: for tests; time on SQLite. PostgreSQL has the server's.
        files: for tests; the schema files instead of those of this release.
        pool_max: PostgreSQL connections at most, 3 to 100; two are kept for heartbeats.

    Raises:
        Conflict: the schema is newer than this release, or (PostgreSQL) not migrated.
        Invalid: the URL or the file cannot be used.
    """
    text = _text(url)
    known = list(files) if files is not None else schema.load(schema_directories())
    if text.startswith(POSTGRES):
        from onefold.engine.postgres.engine import PostgresEngine

        return Database(
            PostgresEngine(text, known, durability=durability, rehearse=rehearse, pool_max=pool_max), url=text
        )
    from onefold.engine.sqlite.engine import SqliteEngine

    path = sqlite_path(text)
    return Database(
        SqliteEngine(path, known, durability=durability, rehearse=rehearse, clock=clock or SYSTEM),
        url=str(path),
    )


def migrate(
    url: str | Path, *, files: Sequence[schema.SchemaFile] | None = None, tell: Tell = quiet
) -> list[tuple[str, int]]:
    """Bring the schema of `url` up to this release; answer the `(block, version)` applied.

    Several processes may do so at once; one does the work, under a lock.

    Args:
        url: as for `connect`.
        files: for tests; the schema files instead of those of this release.
        tell: hears of each file, as `tell("applying jobs 003", 2, 5)`.
    """
    text = _text(url)
    known = list(files) if files is not None else schema.load(schema_directories())
    if text.startswith(POSTGRES):
        from onefold.engine.postgres.migrate import migrate_postgres

        return migrate_postgres(text, known, tell=tell)
    from onefold.engine.sqlite.migrate import migrate_sqlite

    return migrate_sqlite(sqlite_path(text), known, tell=tell)


def parse_postgres_url(text: str) -> dict[str, Any]:
    """The parts of a PostgreSQL URL in libpq's words ("dbname", "host", ...); Invalid when it is none."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        return dict(conninfo_to_dict(text))
    except psycopg.Error as error:
        raise Invalid("This is not a PostgreSQL URL.", code="url") from error


def _text(url: str | Path) -> str:
    # str(None) would be a file named None: what a look-up of a missing variable answers.
    if not isinstance(url, (str, Path)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise Invalid("A database is named by a path or a URL.", got=type(url).__name__)
    text = str(url)
    if "\0" in text:
        raise Invalid("A path or a URL holds no NUL.")
    return text


def sqlite_path(text: str) -> Path:
    """The file that a path or a sqlite:/// URL names; Invalid when it names none."""
    if "://" in text:
        if not text.startswith("sqlite:///"):
            raise Invalid("A URL begins with sqlite:/// or postgresql://.", url=text.rpartition("@")[2])
        text = text.removeprefix("sqlite:///")
        if "?" in text:  # Else a file of that name would be made, and its owner wonder where the rows are.
            raise Invalid("A sqlite:/// URL has no options; a file with ? in its name is given as a path.", url=text)
    if not text or text.startswith((":memory:", "file:")):
        raise Invalid("SQLite needs the path of a file; readers and other processes share it.", path=text)
    return Path(text).absolute()
