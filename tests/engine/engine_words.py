"""Statements and functions that the tests of both engines share."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from onefold import Database, Tx

WAIT_S = 20

PUT = """INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, :key, :total)
         ON CONFLICT (space, key) DO UPDATE SET total = excluded.total"""
INSERT = "INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, :key, :total)"
GET = "SELECT total FROM onefold.counter_totals WHERE space = :space AND key = :key"
UPDATE = "UPDATE onefold.counter_totals SET total = total + 1 WHERE space = :space AND key = :key RETURNING total"
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000000)"


def put(tx: Tx, key: str, total: int = 1) -> None:
    tx.run(PUT, key=key, total=total)


def get(tx: Tx, key: str) -> int | None:
    row = tx.one(GET, key=key)
    return row[0] if row else None


def count(tx: Tx) -> int:
    row = tx.one("SELECT count(*) FROM onefold.counter_totals WHERE space = :space")
    assert row is not None
    return row[0]


def setting(tx: Tx, name: str) -> str:
    row = tx.one("SELECT current_setting(:name)", name=name)
    assert row is not None
    return row[0]


class Blocker:
    """A function that sits in its transaction until it is let go."""

    def __init__(self) -> None:
        self.entered, self.leave = threading.Event(), threading.Event()

    def __call__(self, tx: Tx) -> None:
        self.entered.set()
        assert self.leave.wait(WAIT_S)

    async def sits(self) -> None:
        """Until it is in its transaction."""
        assert await asyncio.to_thread(self.entered.wait, WAIT_S)


def in_one_batch(db: Database, *calls: tuple[Any, Callable[..., Any], *tuple[Any, ...]]) -> list[Any]:
    """Run (handle or None, function, arguments...) in one transaction: they queue while a first one holds the writer."""
    blocker = Blocker()

    async def scenario() -> list[Any]:
        first = asyncio.create_task(db.arun(blocker))
        await blocker.sits()
        rest = [asyncio.create_task((at or db).arun(fn, *args)) for at, fn, *args in calls]
        await asyncio.sleep(0)
        blocker.leave.set()
        await first
        return await asyncio.gather(*rest, return_exceptions=True)

    return asyncio.run(scenario())


def python(program: str, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program of its own to its end."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *args],
        capture_output=True, text=True, timeout=60, check=False, **options,
    )
