"""A sqlite3 connection for ORMs that takes the gate like our own writer.

Between BEGIN and the end of COMMIT or ROLLBACK it holds the gate, so it waits its turn fairly
and never writes or checkpoints beside another process; see `Gate`.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from onefold.core.errors import Retry
from onefold.engine.sqlite.connection import real_path
from onefold.host.gate import Gate

GATE_WAIT_S = 30.0


class GatedConnection(sqlite3.Connection):
    """Pass it as `factory=` to `sqlite3.connect`; begin with `begin_gated`, not with SQL."""

    def __init__(self, database: Any, *args: Any, **kwargs: Any) -> None:
        kwargs["isolation_level"] = None  # BEGIN is said here, never by the driver.
        super().__init__(database, *args, **kwargs)
        self._path = real_path(Path(database))
        self._gate: Gate | None = None
        self.execute("PRAGMA busy_timeout = 5000")
        self.execute("PRAGMA wal_autocheckpoint = 0")

    def begin_gated(self) -> None:
        """Wait for the gate and BEGIN IMMEDIATE; Retry naming the holder when that takes too long."""
        gate = Gate(self._path)
        if not gate.acquire_within(GATE_WAIT_S):
            raise Retry("Another process holds the file and does not let go.", code="gate", holder=gate.holder())
        self._gate = gate
        try:
            self.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._let_go()
            raise

    def commit(self) -> None:
        """COMMIT, then let the next one in."""
        if self.in_transaction:
            self.execute("COMMIT")
        self._let_go()

    def rollback(self) -> None:
        """ROLLBACK, then let the next one in."""
        try:
            if self.in_transaction:
                self.execute("ROLLBACK")
        finally:
            self._let_go()

    def close(self) -> None:
        """Close under the gate: the last one to close writes the WAL back into the file."""
        self.rollback()
        gate = Gate(self._path)
        gate.acquire_within(GATE_WAIT_S)
        try:
            super().close()
        finally:
            gate.close()

    def _let_go(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.close()
