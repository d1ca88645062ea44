"""SQLite migrates itself: under the gate, in one transaction."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from onefold.core.clock import SYSTEM
from onefold.core.errors import Invalid, Retry
from onefold.engine import schema
from onefold.engine.sqlite.connection import open_connection, real_path, translated
from onefold.engine.telling import Tell, quiet
from onefold.host.gate import Gate

GATE_WAIT_S = 30.0


def migrate_sqlite(path: Path, files: Sequence[schema.SchemaFile], *, tell: Tell = quiet) -> list[tuple[str, int]]:
    """Apply what is missing; answer what was applied. Several processes may call it at once."""
    path = real_path(path)
    if not path.parent.is_dir():
        raise Invalid("The folder of the database file does not exist.", folder=str(path.parent))
    try:
        gate = Gate(path)
    except OSError as error:
        raise Invalid("The folder of the database file cannot be written.", path=str(path), why=str(error)) from error
    try:
        # Who only looks, such as the doctor, need not wait for whoever writes for long.
        if not gate.try_acquire():
            if _is_migrated(path, files):
                return []
            if not gate.acquire_within(GATE_WAIT_S):
                raise Retry("Another process holds the file and does not let go.", code="gate", holder=gate.holder())
        connection = open_connection(path)
        try:
            connection.execute("BEGIN IMMEDIATE")
            todo = schema.missing(files, _applied(connection))
            schema.apply(todo, "sqlite", connection.execute, now_ms=SYSTEM.now_ms(), tell=tell)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise translated(error) from error
        finally:
            with contextlib.suppress(sqlite3.Error):
                connection.close()
    finally:
        gate.close()
    return [(file.block, file.version) for file in todo]


def _is_migrated(path: Path, files: Sequence[schema.SchemaFile]) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            wal = connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            return wal and not schema.missing(files, _applied(connection))
    except sqlite3.Error:
        return False  # Whatever it is, the ordinary way says it.


def _applied(connection: sqlite3.Connection) -> list[tuple[str, int, str]]:
    exists = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'onefold_schema'")
    if exists.fetchone() is None:
        return []
    return connection.execute("SELECT block, version, digest FROM onefold_schema").fetchall()
