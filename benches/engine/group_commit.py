"""Small transactions of 128 callers beside one commit each, inline, with the best settings of SQLite."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from pathlib import Path

from benches.engine.redis import increment, open_bench
from benches.harness import COMPARISON, Sample, Size, Table, interleaved, row, timed, timed_crowd
from onefold import Database, Tx

NAME = "group-commit"
PAGE = "src/onefold/engine/README.md"
CALLERS = 128
UPSERT = "INSERT INTO t VALUES (?, 1) ON CONFLICT (k) DO UPDATE SET n = n + 1 RETURNING n"


def run(size: Size) -> list[Table]:
    """One statement, and five."""
    table = Table("Small durable transactions, 128 asynchronous callers, against one COMMIT each in sqlite3 (WAL, FULL)", COMPARISON)
    with tempfile.TemporaryDirectory() as folder:
        db = open_bench(folder)
        plain = sqlite3.connect(Path(folder) / "plain.db", isolation_level=None, cached_statements=512)
        plain.execute("PRAGMA journal_mode = WAL")
        plain.execute("PRAGMA synchronous = FULL")
        plain.execute("PRAGMA cache_size = -65536")
        plain.execute("CREATE TABLE t (k TEXT PRIMARY KEY, n INTEGER) WITHOUT ROWID")
        for what, statements, each in (("one upsert", 1, 250), ("five statements", 5, 120)):
            mine, peer = interleaved(
                size.rounds,
                lambda: crowd(db, size.of(each), statements),
                lambda: timed(lambda n: commit_each(plain, n, statements), size.of(3_000)),
            )
            row(table, what, mine, peer, bar=10.0)
        plain.close()
        db.close()
    table.notes.append("The peer is inline code without threads, the fastest form that commits each call by itself.")
    return [table]


def several(tx: Tx, caller: int, statements: int) -> None:
    """`statements` upserts on keys of the caller's."""
    for number in range(statements):
        increment(tx, f"{caller}/{number}")


def crowd(db: Database, each: int, statements: int) -> Sample:
    """128 tasks in a closed loop."""
    return asyncio.run(timed_crowd(lambda caller, _n: db.arun(several, caller, statements), CALLERS, each))


def commit_each(plain: sqlite3.Connection, n: int, statements: int) -> None:
    """BEGIN IMMEDIATE, the same statements, COMMIT."""
    plain.execute("BEGIN IMMEDIATE")
    for number in range(statements):
        plain.execute(UPSERT, (f"{n % CALLERS}/{number}",)).fetchall()
    plain.execute("COMMIT")
