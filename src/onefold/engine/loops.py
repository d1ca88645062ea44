"""The engine's own loops: folding counters, sweeping the ids of finished attempts.

Both are safe at READ COMMITTED and when two processes run them at once: rows are claimed by
deleting them, and what another one holds is skipped.
"""

from __future__ import annotations

from onefold.core.loop import Loop
from onefold.engine.tx import Tx

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
    """
    rows = tx.all(TAKE_DELTAS, batch=FOLD_BATCH)
    sums: dict[tuple[int, str], int] = {}
    for space, key, delta in rows:
        sums[space, key] = sums.get((space, key), 0) + delta
    # In one order, so that two folders never wait for each other in a ring.
    tx.many(
        ADD_TOTAL,
        ({"their_space": space, "key": key, "delta": delta} for (space, key), delta in sorted(sums.items())),
    )
    return len(rows) == FOLD_BATCH


def sweep_tx(tx: Tx) -> bool:
    """Forget attempts older than an hour; True when more is waiting."""
    return len(tx.all(SWEEP, before_ms=tx.now_ms - TX_KEPT_MS, batch=SWEEP_BATCH)) == SWEEP_BATCH


LOOPS = [
    Loop("counters.fold", fold_counters, every_ms=1_000),
    Loop("tx.sweep", sweep_tx, every_ms=60_000),
]
