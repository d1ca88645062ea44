"""Moving on what became due, and sweeping what nobody needs any more. Engine loops over all spaces."""

from __future__ import annotations

from onefold.engine.tx import Tx, operation
from onefold.messaging.jobs.moves import to_ready
from onefold.messaging.jobs.records import Body

PROMOTE_MAX = 500
SWEEP_MAX = 500
DEAD_KEEP_MS = 2_592_000_000  # 30 days.
CANCEL_KEEP_MS = 3_600_000


@operation
def promote(tx: Tx, *, late_ms: int | None = None) -> int | None:
    """Make ready what is due; all spaces.

    Args:
        late_ms: look at nothing that was due longer ago; None looks at all. Who promotes all the
            time passes over the dead index entries of what it promoted already.

    Returns:
        In how many ms to come back: 0, there is more; None, nothing waits for a time.
    """
    rows = tx.all(
        """WITH picked AS MATERIALIZED (
               SELECT s.space, s.id FROM onefold.jobs_scheduled s
               WHERE s.at_ms >= :since_ms AND s.at_ms <= :now_ms
               ORDER BY s.at_ms, s.space, s.id LIMIT :most {for_update} {skip_locked})
           DELETE FROM onefold.jobs_scheduled
           WHERE (onefold.jobs_scheduled.id, onefold.jobs_scheduled.space) IN (SELECT id, space FROM picked)
           RETURNING space, space_name, id, kind, queue, priority, args, attempt, failures, attempts_max,
                     unique_key, put_at_ms, progress, error, at_ms -- all spaces""",
        since_ms=0 if late_ms is None else max(0, tx.now_ms - late_ms), most=PROMOTE_MAX,
    )  # fmt: skip
    if rows:
        rows.sort(key=lambda row: (row[-1], row[2]))
        to_ready(tx, [Body(*row[:-1]) for row in rows])
    if len(rows) == PROMOTE_MAX:
        return 0
    next_at = tx.one(
        """SELECT s.at_ms FROM onefold.jobs_scheduled s WHERE s.at_ms > :now_ms -- all spaces
           ORDER BY s.at_ms LIMIT 1"""
    )
    return next_at[0] - tx.now_ms if next_at else None


def promote_all(tx: Tx) -> bool:
    """`promote` as a loop's step: True, there is more."""
    return promote(tx) == 0


@operation
def sweep(tx: Tx) -> bool:
    """Forget finished jobs past their time, dead ones and failures after 30 days, unread cancels after an hour."""
    done = tx.all(
        """WITH picked AS MATERIALIZED (
               SELECT d.space, d.id FROM onefold.jobs_done d WHERE d.expires_at_ms <= :now_ms
               ORDER BY d.expires_at_ms LIMIT :most {for_update} {skip_locked})
           DELETE FROM onefold.jobs_done
           WHERE (onefold.jobs_done.id, onefold.jobs_done.space) IN (SELECT id, space FROM picked)
           RETURNING id -- all spaces""",
        most=SWEEP_MAX,
    )
    dead = tx.all(
        """WITH picked AS MATERIALIZED (
               SELECT d.space, d.id FROM onefold.jobs_dead d WHERE d.died_at_ms <= :now_ms - :keep_ms
               ORDER BY d.died_at_ms LIMIT :most {for_update} {skip_locked})
           DELETE FROM onefold.jobs_dead
           WHERE (onefold.jobs_dead.id, onefold.jobs_dead.space) IN (SELECT id, space FROM picked)
           RETURNING id -- all spaces""",
        most=SWEEP_MAX, keep_ms=DEAD_KEEP_MS,
    )  # fmt: skip
    cancels = tx.all(
        """WITH picked AS MATERIALIZED (
               SELECT c.space, c.id FROM onefold.jobs_cancels c WHERE c.at_ms <= :now_ms - :keep_ms
               ORDER BY c.at_ms LIMIT :most {for_update} {skip_locked})
           DELETE FROM onefold.jobs_cancels
           WHERE (onefold.jobs_cancels.id, onefold.jobs_cancels.space) IN (SELECT id, space FROM picked)
           RETURNING id -- all spaces""",
        most=SWEEP_MAX, keep_ms=CANCEL_KEEP_MS,
    )  # fmt: skip
    failures = tx.all(
        """WITH picked AS MATERIALIZED (
               SELECT f.space, f.id, f.attempt FROM onefold.jobs_failures f WHERE f.ended_at_ms <= :now_ms - :keep_ms
               ORDER BY f.ended_at_ms LIMIT :most {for_update} {skip_locked})
           DELETE FROM onefold.jobs_failures
           WHERE (onefold.jobs_failures.id, onefold.jobs_failures.space, onefold.jobs_failures.attempt)
                 IN (SELECT id, space, attempt FROM picked)
           RETURNING id -- all spaces""",
        most=SWEEP_MAX, keep_ms=DEAD_KEEP_MS,
    )  # fmt: skip
    return SWEEP_MAX in {len(done), len(dead), len(cancels), len(failures)}
