"""Numbers under names, for scenarios that need something to read and write."""

from __future__ import annotations

from onefold import Tx


def put(tx: Tx, key: str, value: int) -> None:
    tx.run(
        """INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, :key, :value)
           ON CONFLICT (space, key) DO UPDATE SET total = excluded.total""",
        key=key, value=value,
    )


def get(tx: Tx, key: str) -> int:
    row = tx.one("SELECT total FROM onefold.counter_totals WHERE space = :space AND key = :key", key=key)
    return row[0] if row else 0


def increase(tx: Tx, key: str) -> int:
    """Read, then write: what READ COMMITTED loses."""
    value = get(tx, key) + 1
    put(tx, key, value)
    return value


def count_up(tx: Tx, key: str) -> int:
    """One statement: what no level loses."""
    row = tx.one(
        """INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, :key, 1)
           ON CONFLICT (space, key) DO UPDATE SET total = onefold.counter_totals.total + 1 RETURNING total""",
        key=key,
    )
    assert row is not None
    return row[0]
