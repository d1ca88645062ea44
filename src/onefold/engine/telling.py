"""Telling whoever waits how far long work has come."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Generator

STEPS = 100_000  # Of SQLite's machine between two words.

#: Called with a phase, how much of it is done, and how much there is (0: not known).
Tell = Callable[[str, int, int], object]


def quiet(_what: str, _done: int, _total: int) -> None:
    """Nobody waits."""


@contextlib.contextmanager
def ticking(connection: sqlite3.Connection, tell: Tell, what: str) -> Generator[None]:
    """While one long statement runs on the connection, tell for how many seconds it has."""
    began = time.monotonic()

    def tick() -> int:
        tell(f"{what}, {time.monotonic() - began:.0f} s", 0, 0)
        return 0

    tell(what, 0, 0)
    connection.set_progress_handler(tick, STEPS)
    try:
        yield
    finally:
        connection.set_progress_handler(None, 0)
