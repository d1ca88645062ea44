"""The writer over a database in memory, for the simulator: the same transactions, no file, no threads."""

from __future__ import annotations

import itertools
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from onefold.core.clock import Clock
from onefold.engine import schema
from onefold.engine.call import Call, refuse_awaitable, running
from onefold.engine.metrics import Metrics
from onefold.engine.sqlite.batches import Batches
from onefold.engine.sqlite.connection import (
    BEGIN_READ,
    BEGIN_WRITE,
    CACHED_STATEMENTS,
    COMMIT,
    EngineConnection,
    steady_heap,
    translated,
)  # fmt: skip
from onefold.engine.sqlite.spaces import Spaces
from onefold.engine.sqlite.tx import SqliteTx
from onefold.engine.sqlite.wakes import Wakes
from onefold.engine.tx import OVER, Hints

NO_FILE = Path("/nonexistent")  # Nothing is synced, and nothing written back.


class MemoryWriter:
    """One database that forgets everything at `reset`. Used by one thread at a time."""

    def __init__(
        self, files: Sequence[schema.SchemaFile], *, clock: Clock, told: Callable[[list[Hints]], None]
    ) -> None:
        """Make a migrated, empty database.

        Args:
            files: the schema.
            clock: asked once per transaction.
            told: gets what the functions of a transaction left to be done after its COMMIT.
        """
        steady_heap()
        self._clock = clock
        self._told = told
        self._pristine = _connection()
        schema.apply(files, "sqlite", self._pristine.execute, now_ms=0)
        self._connection = _connection()
        self._batches = self._start()
        self._start_over()

    def committed(self, hints: list[Hints]) -> None:
        """The writer tells of a COMMIT."""
        self._told(hints)

    def run(self, call: Call, *, twice: bool = False) -> Any:
        """Bring one call to its committed end; answer its result.

        Args:
            call: what to run.
            twice: run it, undo it and run it again first, as after a conflict.
        """
        if call.options.read_only:
            return self._read(call)
        batches = self._batches
        batches._rehearse = twice
        batches._commits_since_look = 0  # There is no WAL to look at.
        batches.alone(call)
        return call.outcome()

    def reset(self) -> None:
        """Forget all rows and all tables that were made since; the next transaction finds it as it was."""
        if self._schema_version() != self._version:
            self._start_over()
        if self._connection.execute("SELECT 1 FROM temp.sqlite_master").fetchone():
            for place in ("FILE", "MEMORY"):  # SQLite drops all temporary tables when their place changes.
                self._connection.execute(f"PRAGMA temp_store = {place}")
        # No table of the schema refers to another one: they are emptied in any order. Most were not written.
        used = self._connection.execute(self._used).fetchone()
        self._connection.execute(BEGIN_WRITE)
        for statement in itertools.compress(self._emptying, used):
            self._connection.execute(statement)
        self._connection.execute(COMMIT)
        self._batches._spaces = Spaces()

    def close(self) -> None:
        """Give the memory back."""
        self._connection.close()
        self._pristine.close()

    def _start(self) -> Batches:
        batches = Batches(
            NO_FILE, deque(), clock=self._clock, durability="everysec", rehearse=False, metrics=Metrics(),
            wakes=cast("Wakes", self), unsynced=lambda: None, wanted=lambda: False,
        )  # fmt: skip
        batches.use(self._connection)
        return batches

    def _start_over(self) -> None:
        self._pristine.backup(self._connection)
        rows = self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        tables = [name for (name,) in rows if name != "onefold_schema"]
        self._used = "SELECT " + ", ".join(f'EXISTS (SELECT 1 FROM "{name}")' for name in tables)  # noqa: S608
        self._emptying = [f'DELETE FROM "{name}"' for name in tables]  # noqa: S608
        self._version = self._schema_version()

    def _schema_version(self) -> int:
        (version,) = self._connection.execute("PRAGMA schema_version").fetchone()
        return version

    def _read(self, call: Call) -> Any:
        cursor = self._batches._cursor
        tx = SqliteTx(
            cursor, space=call.space, space_name=call.options.space_name, now_ms=self._clock.now_ms(), seed=call.seed
        )
        cursor.execute("PRAGMA query_only = ON")
        cursor.execute(BEGIN_READ)
        running.fn = call.fn
        try:
            result = call.fn(tx, *call.args, **call.kwargs)
            refuse_awaitable(call, result)
            tx._check_alive()
        except sqlite3.Error as error:
            raise translated(error) from error
        else:
            return result
        finally:
            running.fn = None
            tx._doom = OVER
            self._connection.take_back()
            if cursor.connection.in_transaction:
                cursor.execute(COMMIT)
            cursor.execute("PRAGMA query_only = OFF")


def _connection() -> EngineConnection:
    connection = sqlite3.connect(
        ":memory:", isolation_level=None, check_same_thread=False, cached_statements=CACHED_STATEMENTS,
        factory=EngineConnection,
    )  # fmt: skip
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection
