"""One snapshot of a file, for as long as it takes: what backups and exports read."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Generator
from pathlib import Path

from onefold.core.errors import Retry
from onefold.engine.sqlite.connection import open_connection, real_path, translated
from onefold.host.gate import Gate

GATE_WAIT_S = 30.0


@contextlib.contextmanager
def snapshot(path: Path) -> Generator[sqlite3.Connection]:
    """A connection that reads what was committed when it was opened. Nobody waits for it, but the WAL grows.

    Raises:
        Retry: another process holds the gate and does not let go.
        Invalid: the file is not a healthy database.
    """
    path = real_path(path)
    gate = Gate(path)
    with contextlib.ExitStack() as stack:
        stack.callback(gate.close)
        # Whoever opens a file that nobody has open may have to recover its WAL: a matter of writers.
        if not gate.acquire_within(GATE_WAIT_S):
            raise Retry("Another process holds the file and does not let go.", code="gate", holder=gate.holder())
        try:
            connection = open_connection(path, readonly=True)
            stack.callback(_close, connection, gate)
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # The snapshot is taken here.
            gate.release()
            yield connection
        except sqlite3.Error as error:
            raise translated(error) from error


def _close(connection: sqlite3.Connection, gate: Gate) -> None:
    """The last one to close writes the WAL back; who holds the gate too long for us is not gone, so nothing is."""
    gate.acquire_within(GATE_WAIT_S)
    with contextlib.suppress(sqlite3.Error):
        connection.close()
