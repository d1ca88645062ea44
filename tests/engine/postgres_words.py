"""Statements and functions that the tests of the PostgreSQL engine share."""

from __future__ import annotations

from onefold import Tx

PUT = """INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, :key, :total)
         ON CONFLICT (space, key) DO UPDATE SET total = excluded.total"""
INSERT = "INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, :key, :total)"
GET = "SELECT total FROM onefold.counter_totals WHERE space = :space AND key = :key"
UPDATE = "UPDATE onefold.counter_totals SET total = total + 1 WHERE space = :space AND key = :key RETURNING total"


def put(tx: Tx, key: str, total: int) -> None:
    tx.run(PUT, key=key, total=total)


def get(tx: Tx, key: str) -> int | None:
    row = tx.one(GET, key=key)
    return row[0] if row else None


def setting(tx: Tx, name: str) -> str:
    row = tx.one("SELECT current_setting(:name)", name=name)
    assert row is not None
    return row[0]
