"""A sqlite3 connection for ORMs that takes the gate like our own writer.

Between BEGIN and the end of COMMIT or ROLLBACK it holds the gate, so it waits its turn fairly
and never writes or checkpoints beside another process; see `Gate`.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, Self

from onefold.core.errors import Invalid, Retry
from onefold.engine.sql import first_word
from onefold.engine.sqlite.connection import real_path
from onefold.engine.sqlite.room import Room
from onefold.host.gate import Gate

GATE_WAIT_S = 30.0
_READS = frozenset(("select", "values", "explain", "pragma"))  # PRAGMAs that write are the owner's own affair.


class GatedConnection(sqlite3.Connection):
    """Pass it as `factory=` to `sqlite3.connect`; begin with `begin_gated`, or with `execute("BEGIN IMMEDIATE")`."""

    def __init__(self, database: Any, *args: Any, **kwargs: Any) -> None:
        kwargs["isolation_level"] = None  # BEGIN is said here, never by the driver.
        super().__init__(database, *args, **kwargs)
        self._path = real_path(Path(database))
        # Kept open while nobody writes: by it `onefold doctor` knows who takes the gate.
        self._gate = Gate(self._path)
        self._room = Room(self._path)
        self.execute("PRAGMA busy_timeout = 5000")
        self.execute("PRAGMA wal_autocheckpoint = 0")

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """As ever; but BEGIN takes the gate. Of aiosqlite's public methods this one alone gets here."""
        if first_word(sql) != "begin":
            return super().execute(sql, parameters)
        self.begin_gated()
        return self.cursor()

    def begin_gated(self) -> None:
        """Wait for the gate and BEGIN IMMEDIATE; Retry naming the holder when that takes too long."""
        self.take_gate()
        try:
            super().execute("BEGIN IMMEDIATE")
            self._room.make()
        except BaseException:
            self.let_go_when_over()
            raise

    def take_gate(self) -> None:
        """Wait for the gate; Retry naming the holder when that takes too long."""
        if self._gate.closed:
            self._gate = Gate(self._path)
        if not self._gate.acquire_within(GATE_WAIT_S):
            raise Retry("Another process holds the file and does not let go.", code="gate", holder=self._gate.holder())

    def let_go_when_over(self) -> None:
        """Let the next one in, unless a transaction is open. SQLite ends some by itself, others end in words."""
        if not self.in_transaction:
            self._gate.release()

    def commit(self) -> None:
        """COMMIT, then let the next one in."""
        if self.in_transaction:
            self.execute("COMMIT")
        self._gate.release()

    def rollback(self) -> None:
        """ROLLBACK, then let the next one in."""
        try:
            if self.in_transaction:
                self.execute("ROLLBACK")
        finally:
            self._gate.release()

    def close(self) -> None:
        """Close under the gate: the last one to close writes the WAL back into the file."""
        self.rollback()
        try:
            with contextlib.suppress(Retry):
                self.take_gate()
            super().close()
        finally:
            self._gate.close()


class GatedCursor(sqlite3.Cursor):
    """A cursor of a `GatedConnection`, for an ORM that writes outside of transactions as well.

    Such a write takes the gate for itself. The rows that it returns are read at once, for only then has
    SQLite committed it.
    """

    _rows: deque[Any] | None = None  # None: SQLite still has them.

    def execute(self, sql: str, *parameters: Any) -> Self:
        """As ever; outside of a transaction a write takes the gate."""
        self._gated(super().execute, sql, *parameters)
        return self

    def executemany(self, sql: str, *parameters: Any) -> Self:
        """The same; all its rows under one gate."""
        self._gated(super().executemany, sql, *parameters)
        return self

    def _gated(self, call: Callable[..., object], sql: str, *parameters: Any) -> None:
        connection: Any = self.connection  # A GatedConnection.
        word = first_word(sql)
        self._rows = None
        if connection.in_transaction:
            try:
                call(sql, *parameters)
            finally:
                connection.let_go_when_over()
        elif word in _READS:
            call(sql, *parameters)
        elif word == "begin":
            connection.begin_gated()
        elif word == "savepoint":
            raise Invalid("A savepoint outside of a transaction would take no gate; begin one.", code="savepoint")
        else:
            connection.take_gate()
            try:
                call(sql, *parameters)
                self._rows = deque(super().fetchall()) if self.description else None
            finally:
                connection.let_go_when_over()

    def __next__(self) -> Any:
        if self._rows is None:
            return super().__next__()
        if not self._rows:
            raise StopIteration
        return self._rows.popleft()

    def fetchone(self) -> Any:
        """As ever."""
        return super().fetchone() if self._rows is None else next(self, None)

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """As ever."""
        size = self.arraysize if size is None else size
        return super().fetchmany(size) if self._rows is None else list(islice(self, size))

    def fetchall(self) -> list[Any]:
        """As ever."""
        return super().fetchall() if self._rows is None else list(self)
