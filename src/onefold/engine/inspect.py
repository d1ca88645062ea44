"""What a database says of itself, asked without migrating or changing it; `onefold doctor` judges it."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from onefold.core.errors import Invalid, OnefoldError, Retry
from onefold.engine import schema
from onefold.engine.postgres.asking import asking
from onefold.engine.sqlite.damage import damage_of
from onefold.engine.telling import Tell, quiet, ticking
from onefold.index import schema_directories

_CLIENT_PORT = "SELECT client_port FROM pg_stat_activity WHERE pid = pg_backend_pid()"
BUSY_TIMEOUT_S = 2.0

_SETTINGS = (
    "max_connections", "superuser_reserved_connections", "max_prepared_transactions", "synchronous_commit", "fsync",
    "full_page_writes", "statement_timeout",
    "idle_in_transaction_session_timeout", "transaction_timeout", "default_transaction_isolation",
)  # fmt: skip


class SchemaState(msgspec.Struct, frozen=True):
    """How a database's schema stands to this release's.

    Attributes:
        missing: files to apply, "locks 001".
        refused: why this release must not touch it (newer, or a file was edited); "" when it may.
    """

    missing: list[str]
    refused: str


class SqliteFacts(msgspec.Struct, frozen=True):
    """What a file says. `damage` is None when it was not looked for, else empty or what is wrong.

    `migrated_at_ms` is the latest migration by the clock of whoever did it; 0 when there was none.
    """

    journal_mode: str
    bytes_total: int
    bytes_free: int
    schema: SchemaState
    damage: list[str] | None
    migrated_at_ms: int


class PostgresFacts(msgspec.Struct, frozen=True):
    """What a server says. Ages are in ms; `settings` are as text.

    Attributes:
        ahead_ms: how far its clock is ahead of ours, give or take half of the round trip.
        oldest_snapshot_ms: of any database of the server: it keeps dead rows of all tables.
        relayed: the server sees another TCP connection than ours: a pooler, a proxy or NAT is between.
    """

    version: int
    user: str
    settings: dict[str, str]
    connections: int
    read_only: bool
    oldest_transaction_ms: int
    prepared: int
    ahead_ms: int
    oldest_snapshot_ms: int
    relayed: bool
    schema: SchemaState


def sqlite_version() -> str:
    """Of the library that Python was built with."""
    return sqlite3.sqlite_version


def inspect_sqlite(path: Path, *, thorough: bool = False, tell: Tell = quiet) -> SqliteFacts:
    """Ask the file at `path`, which must exist.

    Args:
        path: the file.
        thorough: read all of it and look for damage; a snapshot stays open meanwhile.
        tell: hears of that.

    Raises:
        Invalid: it is not a database, or cannot be opened.
        Retry: another program holds it.
    """
    try:
        uri = f"file:{quote(str(path))}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S)
    except sqlite3.Error as error:
        raise Invalid("The database file cannot be opened.", path=str(path), why=str(error)) from error
    with contextlib.closing(connection):
        try:
            return _ask_sqlite(connection, thorough=thorough, tell=tell)
        except sqlite3.OperationalError as error:
            raise Retry("The file cannot be read now.", path=str(path), why=str(error)) from error
        except sqlite3.Error as error:
            raise Invalid("The file is not a healthy SQLite database.", code="corrupt", why=str(error)) from error


def _ask_sqlite(connection: sqlite3.Connection, *, thorough: bool, tell: Tell) -> SqliteFacts:
    def one(sql: str) -> Any:
        (value,) = connection.execute(sql).fetchone()
        return value

    page = one("PRAGMA page_size")
    applied: list[tuple[str, int, str]] = []
    if one("SELECT count(*) FROM sqlite_master WHERE name = 'onefold_schema'"):
        applied = connection.execute("SELECT block, version, digest FROM onefold_schema").fetchall()
    damage = None
    if thorough:
        with ticking(connection, tell, "looking for damage"):
            damage = damage_of(connection, rows_only=True)
    return SqliteFacts(
        journal_mode=one("PRAGMA journal_mode"), bytes_total=page * one("PRAGMA page_count"),
        bytes_free=page * one("PRAGMA freelist_count"), schema=schema_state(applied), damage=damage,
        migrated_at_ms=one("SELECT coalesce(max(applied_at_ms), 0) FROM onefold_schema") if applied else 0,
    )  # fmt: skip


def inspect_postgres(url: str) -> PostgresFacts:
    """Ask the server and the database at `url`.

    Raises:
        Retry: it cannot be reached.
        Invalid: it refuses what is asked.
    """
    with asking(url, name="onefold doctor") as connection:
        return _ask_postgres(connection)


def _ask_postgres(connection: Any) -> PostgresFacts:
    def one(sql: str) -> Any:
        (value,) = connection.execute(sql).fetchone()
        return value

    before = time.time_ns()
    server_ms = int(one("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"))
    ahead_ms = server_ms - (before + time.time_ns()) // 2_000_000
    wanted = "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)"
    rows = connection.execute(wanted, (list(_SETTINGS),)).fetchall()
    applied: list[tuple[str, int, str]] = []
    if one("SELECT to_regclass('onefold.schema') IS NOT NULL"):
        applied = connection.execute("SELECT block, version, digest FROM onefold.schema").fetchall()
    return PostgresFacts(
        version=connection.info.server_version, user=connection.info.user, settings=dict(rows),
        connections=one("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"),
        read_only=one("SELECT pg_is_in_recovery()"),
        oldest_transaction_ms=int(
            one(
                "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0) * 1000 "
                "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        ),
        prepared=one("SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()"),
        ahead_ms=ahead_ms,
        oldest_snapshot_ms=int(
            one(
                "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0) * 1000 "
                "FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()"
            )
        ),
        relayed=_is_relayed(connection, one(_CLIENT_PORT)),
        schema=schema_state(applied),
    )  # fmt: skip


def _is_relayed(connection: Any, port_seen: int | None) -> bool:
    """Whether the server's end of the connection is not the other end of ours; it sees -1 for a Unix socket."""
    with socket.socket(fileno=os.dup(connection.fileno())) as ours:
        mine = -1 if ours.family == socket.AF_UNIX else ours.getsockname()[1]
    return port_seen is not None and port_seen != mine


def schema_state(applied: list[tuple[str, int, str]]) -> SchemaState:
    """How this release stands to a database with these rows of `onefold.schema`: block, version, digest."""
    try:
        todo = schema.missing(schema.load(schema_directories()), applied)
    except OnefoldError as error:
        return SchemaState([], str(error))
    return SchemaState([f"{file.block} {file.version:03}" for file in todo], "")
