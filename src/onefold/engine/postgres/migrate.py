"""Migrations: explicit, in one transaction, under one lock; `connect` only checks."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from onefold.core.clock import SYSTEM
from onefold.core.errors import Conflict, Invalid, OnefoldError, Retry
from onefold.engine import schema
from onefold.engine.postgres.codec import plan_of
from onefold.engine.postgres.errors import first_line, refused
from onefold.engine.postgres.pool import conninfo_of
from onefold.engine.postgres.wire import Wire
from onefold.engine.telling import Tell, quiet
from onefold.engine.tx import Row

VERSION_MIN = 150_000
LOCK_KEY = 0x6F6E65666F6C64  # "onefold" in ASCII: the advisory lock of migrations.
LOCK_WAIT_MS = 120_000  # For another migration to end.
TABLE_LOCK_MS = 5_000  # For the tables: better to give up than to queue up everyone else's work.

EXISTS = "SELECT to_regclass('onefold.schema') IS NOT NULL"
APPLIED = "SELECT block, version, digest FROM onefold.schema ORDER BY block, version"


def migrate_postgres(url: str, files: Sequence[schema.SchemaFile], *, tell: Tell = quiet) -> list[tuple[str, int]]:
    """Apply what is missing; answer what was applied. Several processes may call it at once.

    Raises:
        Conflict: the schema is newer than this release.
        Retry: a table was in use for too long; nothing was changed.
        Invalid: the database cannot be used, or a statement was refused.
    """
    try:
        connection = psycopg.connect(conninfo_of(url).decode())
    except psycopg.Error as error:
        raise refused(str(error)) from None
    try:
        with connection, connection.transaction():
            return _migrate(connection, files, tell)
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
        raise Retry("A table was in use for too long; nothing was changed.", code="lock_timeout") from None
    except psycopg.OperationalError as error:
        raise Retry("PostgreSQL cannot be reached.", code="unavailable", why=first_line(error)) from None
    except psycopg.Error as error:
        raise Invalid("PostgreSQL refuses the migration.", code="migration", why=first_line(error)) from None


def check_schema(wire: Wire, files: Sequence[schema.SchemaFile]) -> None:
    """Refuse a database that this release cannot work with.

    Raises:
        Conflict: it is not migrated, or newer.
        Invalid: PostgreSQL is older than 15.
    """
    if wire.server_version < VERSION_MIN:
        raise Invalid("PostgreSQL 15 or newer is needed.", have=wire.server_version // 10_000)
    todo = list(files)
    [(exists,)] = _all(wire, EXISTS)
    if exists:
        todo = schema.missing(files, _all(wire, APPLIED))
    if todo:
        raise Conflict(
            "The database lacks the schema of this release; run: onefold migrate --url URL",
            code="schema_missing", missing=[f"{file.block} {file.version:03}" for file in todo],
        )  # fmt: skip


def _migrate(
    connection: psycopg.Connection[Row], files: Sequence[schema.SchemaFile], tell: Tell
) -> list[tuple[str, int]]:
    if connection.info.server_version < VERSION_MIN:
        raise Invalid("PostgreSQL 15 or newer is needed.", have=connection.info.server_version // 10_000)
    connection.execute(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}".encode())
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK_KEY,))
    connection.execute(f"SET LOCAL lock_timeout = {TABLE_LOCK_MS}".encode())
    # A snapshot from before the lock would not see what its last holder did; READ COMMITTED
    # takes a new one for each statement.
    [(exists,)] = connection.execute(EXISTS).fetchall()
    applied: list[tuple[str, int, str]] = []
    if exists:
        applied = connection.execute(APPLIED).fetchall()
    else:
        connection.execute("CREATE SCHEMA IF NOT EXISTS onefold")
    todo = schema.missing(files, applied)
    schema.apply(todo, "postgres", connection.execute, now_ms=SYSTEM.now_ms(), tell=tell)
    return [(file.block, file.version) for file in todo]


def _all(wire: Wire, sql: str) -> list[Row]:
    plan = plan_of(sql)
    wire.execute(plan, *plan.encode({}))
    try:
        return wire.rows()
    except OnefoldError as error:
        if error.code == "statement":
            raise Invalid("The schema onefold cannot be read by this user.", code="refused", **error.facts) from None
        raise
