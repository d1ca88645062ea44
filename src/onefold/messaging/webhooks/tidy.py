"""Retention: what is older than thirty days goes, in bounded steps."""

from __future__ import annotations

from onefold.engine.tx import Tx, operation

KEPT_MS = 30 * 86_400_000
SWEEP_ROWS = 1_000  # Of each table, a step.


@operation
def sweep(tx: Tx) -> bool:
    """Delete up to 1,000 old rows of each table, in all spaces; True when there may be more."""
    before = {"before_ms": tx.now_ms - KEPT_MS, "rows": SWEEP_ROWS}
    gone = (
        tx.all(
            """DELETE FROM onefold.webhook_attempts WHERE (endpoint_id, message_id, attempt, space) IN (
                   SELECT endpoint_id, message_id, attempt, space FROM onefold.webhook_attempts
                   WHERE at_ms < :before_ms ORDER BY at_ms LIMIT :rows {for_update} {skip_locked})
               RETURNING space -- all spaces""",
            **before,
        ),
        tx.all(
            """DELETE FROM onefold.webhook_failed WHERE (endpoint_id, message_id, space) IN (
                   SELECT endpoint_id, message_id, space FROM onefold.webhook_failed
                   WHERE failed_at_ms < :before_ms ORDER BY failed_at_ms LIMIT :rows {for_update} {skip_locked})
               RETURNING space -- all spaces""",
            **before,
        ),
        tx.all(
            """DELETE FROM onefold.webhook_pending WHERE (endpoint_id, message_id, space) IN (
                   SELECT endpoint_id, message_id, space FROM onefold.webhook_pending
                   WHERE put_at_ms < :before_ms ORDER BY put_at_ms LIMIT :rows {for_update} {skip_locked})
               RETURNING space -- all spaces""",
            **before,
        ),
        tx.all(
            """DELETE FROM onefold.webhook_messages WHERE (id, space) IN (
                   SELECT id, space FROM onefold.webhook_messages
                   WHERE created_at_ms < :before_ms ORDER BY created_at_ms LIMIT :rows {for_update} {skip_locked})
               RETURNING space -- all spaces""",
            **before,
        ),
    )
    return any(len(rows) == SWEEP_ROWS for rows in gone)
