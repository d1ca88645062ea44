"""The engine's own loops: folding counters, sweeping the ids of finished attempts.

Both are safe at READ COMMITTED and when two processes run them at once: rows are claimed by
deleting them, and what another one holds is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from onefold.core.errors import Invalid
from onefold.core.loop import Loop
from onefold.engine.tx import Tx
from onefold.engine.values import INTEGER_MAX, INTEGER_MIN

FOLD_BATCH = 2_000
SWEEP_BATCH = 5_000
TX_KEPT_MS = 3_600_000  # A lost COMMIT is looked up within seconds.

# MATERIALIZED, because a subquery with LIMIT and SKIP LOCKED must be evaluated once.
TAKE_DELTAS = """
WITH taken AS MATERIALIZED (SELECT id FROM onefold.counter_deltas ORDER BY id LIMIT :batch {for_update} {skip_locked})
DELETE FROM onefold.counter_deltas WHERE id IN (SELECT id FROM taken)
RETURNING space, key, delta -- all spaces
"""
ADD_TOTAL = """
INSERT INTO onefold.counter_totals (space, key, total) VALUES (:their_space, :key, :delta)
ON CONFLICT (space, key) DO UPDATE SET total = onefold.counter_totals.total + excluded.total -- all spaces
"""
PUT_BACK = """
INSERT INTO onefold.counter_deltas (space, key, delta) VALUES (:their_space, :key, :delta) -- all spaces
"""
SWEEP = """
WITH old AS MATERIALIZED (
    SELECT id FROM onefold.tx WHERE at_ms < :before_ms ORDER BY at_ms LIMIT :batch {for_update} {skip_locked}
)
DELETE FROM onefold.tx WHERE id IN (SELECT id FROM old)
RETURNING id -- all spaces: an attempt belongs to a process, not to a tenant
"""


def fold_counters(tx: Tx) -> bool:
    """Add what `tx.add` appended to the totals, in all spaces; True when more is waiting.

    `tx.total` is exact before, meanwhile and after: the deltas go and the totals grow in one commit.
    A sum beyond 64 bits has no place in the totals: it goes to the end of the deltas, in as few rows
    as hold it, and keeps no other counter from being folded.
    """
    rows = tx.all(TAKE_DELTAS, batch=FOLD_BATCH)
    sums: dict[tuple[int, str], int] = {}
    for space, key, delta in rows:
        sums[space, key] = sums.get((space, key), 0) + delta
    # In one order, so that two folders never wait for each other in a ring.
    ready = [{"their_space": space, "key": key, "delta": delta} for (space, key), delta in sorted(sums.items())]
    try:
        with tx.savepoint():
            tx.many(ADD_TOTAL, ready)
    except Invalid:  # One does not fit; who it is shows when each goes alone.
        beyond = [row for row in ready if not _fits(tx, row)]
        return len(rows) == FOLD_BATCH and len(beyond) < len(ready)
    return len(rows) == FOLD_BATCH


def _fits(tx: Tx, row: dict[str, Any]) -> bool:
    try:
        with tx.savepoint():
            tx.run(ADD_TOTAL, **row)
    except Invalid:
        tx.many(PUT_BACK, [{**row, "delta": part} for part in _parts(row["delta"])])
        return False
    return True


def _parts(delta: int) -> Iterator[int]:
    """The fewest 64-bit numbers with this sum."""
    while delta:
        part = min(max(delta, INTEGER_MIN), INTEGER_MAX)
        yield part
        delta -= part


def sweep_tx(tx: Tx) -> bool:
    """Forget attempts older than an hour; True when more is waiting."""
    return len(tx.all(SWEEP, before_ms=tx.now_ms - TX_KEPT_MS, batch=SWEEP_BATCH)) == SWEEP_BATCH


LOOPS = [
    Loop("counters.fold", fold_counters, every_ms=1_000),
    Loop("tx.sweep", sweep_tx, every_ms=60_000),
]
