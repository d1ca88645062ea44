"""Workers and their leases: one heartbeat for all that a worker runs, and the rescue of what a
worker leaves behind. Engine loops, in the space of the worker's own handle, over jobs of all spaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from onefold.core.errors import Conflict, Invalid
from onefold.engine.tx import Tx, operation
from onefold.messaging.jobs.kinds import checked_name
from onefold.messaging.jobs.moves import after_failure
from onefold.messaging.jobs.rates import Ended, as_text
from onefold.messaging.jobs.records import Body

LEASE_MS_MIN = 1_000
LEASE_MS_MAX = 3_600_000
RESCUE_MAX = 500
RESCUE_BACKOFF_MS = 1_000  # The worker knew its kinds' backoffs; who rescues may not.
RESCUE_BACKOFF_MAX_MS = 600_000
_LIST_LENGTH_MAX = 100_000


@operation
def enlist(tx: Tx, worker: str, *, queues: Iterable[str], kinds: Iterable[str], lease_ms: int) -> None:
    """Register a worker, whose name nobody else has or had, with its first lease."""
    if not (1 <= len(worker) <= 200 and LEASE_MS_MIN <= lease_ms <= LEASE_MS_MAX):
        raise Invalid("A worker has a name of 1 to 200 characters and a lease of 1 s to 1 h.", lease_ms=lease_ms)
    tx.run(
        """INSERT INTO onefold.jobs_workers (space, worker, queues, kinds, started_at_ms, expires_at_ms)
           VALUES (:space, :worker, :queues, :kinds, :now_ms, :now_ms + :lease_ms)""",
        worker=worker, queues=as_list(queues), kinds=as_list(kinds), lease_ms=lease_ms,
    )  # fmt: skip


@operation
def beat(tx: Tx, worker: str, *, lease_ms: int, rates: Mapping[str, Ended] | None = None) -> list[tuple[str, int]]:
    """Extend the lease of all that the worker runs; answer the (id, attempt) of its cancelled jobs.

    Args:
        worker: as it enlisted.
        lease_ms: counted from now.
        rates: what it ended in the last minute, by kind.

    Raises:
        Conflict: the worker was given up and its jobs rescued ("worker_lost"); enlist anew.
    """
    row = tx.one(
        """UPDATE onefold.jobs_workers SET expires_at_ms = :now_ms + :lease_ms, rates = :rates
           WHERE space = :space AND worker = :worker RETURNING worker""",
        worker=worker, lease_ms=lease_ms, rates=as_text(dict(rates or {})),
    )  # fmt: skip
    if row is None:
        raise Conflict("The worker was given up.", code="worker_lost", worker=worker)
    return cancelled(tx, worker)


# Of the pool's connections two are kept for this: a busy pool must not look like a dead worker.
beat.onefold_reserved = True  # pyright: ignore[reportFunctionMemberAccess]


@operation
def cancelled(tx: Tx, worker: str) -> list[tuple[str, int]]:
    """Which of a worker's jobs were cancelled since it asked last: (id, attempt)."""
    rows = tx.all(
        """DELETE FROM onefold.jobs_cancels WHERE worker = :worker -- all spaces
           RETURNING id, attempt""",
        worker=worker,
    )
    return sorted((str(row[0]), int(row[1])) for row in rows)


@operation
def retire(tx: Tx, worker: str) -> None:
    """The worker stops. What it still held is rescued by the others at once."""
    tx.run(
        "UPDATE onefold.jobs_workers SET expires_at_ms = :now_ms WHERE space = :space AND worker = :worker",
        worker=worker,
    )
    _forget_if_idle(tx, tx.space, worker)


@operation
def rescue(tx: Tx) -> bool:
    """Take the jobs of one worker whose lease is over; each counts a failure. True: there is more.

    Nothing waits for this to be correct: the attempts are fenced by their numbers, not by time.
    """
    found = tx.one(
        """SELECT w.space, w.worker, w.expires_at_ms FROM onefold.jobs_workers w
           WHERE w.expires_at_ms <= :now_ms -- all spaces
           ORDER BY w.expires_at_ms, w.worker LIMIT 1 {for_update} {skip_locked}"""
    )
    if found is None:
        return False
    home, worker, expired_at_ms = found
    rows = tx.all(
        """WITH picked AS MATERIALIZED (
               SELECT r.space, r.id FROM onefold.jobs_running r WHERE r.worker = :worker
               ORDER BY r.id LIMIT :most {for_update} {skip_locked})
           DELETE FROM onefold.jobs_running
           WHERE (onefold.jobs_running.id, onefold.jobs_running.space) IN (SELECT id, space FROM picked) -- all spaces
           RETURNING space, space_name, id, kind, queue, priority, args, attempt, failures, attempts_max,
                     unique_key, put_at_ms, progress, error, claimed_at_ms""",
        worker=worker, most=RESCUE_MAX,
    )  # fmt: skip
    silent_ms = tx.now_ms - expired_at_ms
    error = f"Its worker {worker} was silent: the lease had been over for {silent_ms} ms."
    for *columns, started_at_ms in sorted(rows, key=lambda row: row[2]):
        after_failure(
            tx, Body(*columns), worker, started_at_ms=started_at_ms, error=error,
            backoff_ms=RESCUE_BACKOFF_MS, backoff_max_ms=RESCUE_BACKOFF_MAX_MS,
        )  # fmt: skip
    if not _forget_if_idle(tx, home, worker) and len(rows) < RESCUE_MAX:
        # A job that is finishing this moment was skipped. Look again in a second, after the others.
        tx.run(
            """UPDATE onefold.jobs_workers SET expires_at_ms = :now_ms + 1000
               WHERE space = :home AND worker = :worker -- all spaces""",
            home=home, worker=worker,
        )  # fmt: skip
    if rows:
        tx.emit("jobs.rescued", worker=worker, count=len(rows))
    return True


def as_list(names: Iterable[str]) -> str:
    """The names as the claim reads them: ",a,b,"."""
    text = "".join(f",{checked_name(name)}" for name in sorted(set(names))) + ","
    if len(text) > _LIST_LENGTH_MAX:
        raise Invalid("A worker has too many kinds or queues.", length=len(text), most=_LIST_LENGTH_MAX)
    return text


def _forget_if_idle(tx: Tx, home: int, worker: str) -> bool:
    row = tx.one(
        """DELETE FROM onefold.jobs_workers
           WHERE onefold.jobs_workers.space = :home AND onefold.jobs_workers.worker = :worker -- all spaces
             AND NOT EXISTS (SELECT 1 FROM onefold.jobs_running r WHERE r.worker = :worker)
           RETURNING worker""",
        home=home, worker=worker,
    )  # fmt: skip
    return row is not None
