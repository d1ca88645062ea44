"""How a job enters each of its tables. Leaving one is the business of whoever decides it.

Loops move jobs of all spaces, so the space is bound from the job here, not from the transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from onefold.core.errors import Conflict
from onefold.core.said import storable
from onefold.engine.tx import Tx
from onefold.messaging.jobs.records import ERROR_LENGTH_MAX, Body

_EXPONENT_MAX = 40  # Beyond it every backoff has met its maximum.

columns_of = msgspec.structs.asdict


def to_ready(tx: Tx, bodies: Iterable[Body]) -> None:
    """Let jobs wait for a worker, at the end of their lanes, and wake workers."""
    rows = [columns_of(body) for body in bodies]
    tx.many(
        """INSERT INTO onefold.jobs_ready (space, space_name, id, kind, queue, priority, args, attempt, failures,
                                           attempts_max, unique_key, put_at_ms, progress, error, ready_at_ms)
           VALUES (:job_space, :space_name, :id, :kind, :queue, :priority, :args, :attempt, :failures,
                   :attempts_max, :unique_key, :put_at_ms, :progress, :error, :now_ms) -- all spaces""",
        rows,
    )
    for queue in {row["queue"] for row in rows}:
        tx.wake(f"jobs/{queue}")


def to_scheduled(tx: Tx, body: Body, *, at_ms: int) -> None:
    """Let a job wait until `at_ms`."""
    tx.run(
        """INSERT INTO onefold.jobs_scheduled (space, space_name, id, kind, queue, priority, args, attempt,
                                               failures, attempts_max, unique_key, put_at_ms, progress, error, at_ms)
           VALUES (:job_space, :space_name, :id, :kind, :queue, :priority, :args, :attempt, :failures,
                   :attempts_max, :unique_key, :put_at_ms, :progress, :error, :at_ms) -- all spaces""",
        at_ms=at_ms, **columns_of(body),
    )  # fmt: skip
    tx.wake("jobs/scheduled")


def to_dead(tx: Tx, body: Body) -> None:
    """Give a job up; whoever waited for its unique key may have it."""
    tx.run(
        """INSERT INTO onefold.jobs_dead (space, space_name, id, kind, queue, priority, args, attempt, failures,
                                          attempts_max, unique_key, put_at_ms, progress, error, died_at_ms)
           VALUES (:job_space, :space_name, :id, :kind, :queue, :priority, :args, :attempt, :failures,
                   :attempts_max, :unique_key, :put_at_ms, :progress, :error, :now_ms) -- all spaces""",
        **columns_of(body),
    )
    release_key(tx, body)
    tx.emit("jobs.dead", id=body.id, kind=body.kind, queue=body.queue, error=body.error)


def release_key(tx: Tx, body: Body) -> None:
    """The job ends: its unique key is free."""
    if body.unique_key is not None:
        tx.run(
            """DELETE FROM onefold.jobs_unique
               WHERE space = :job_space AND key = :key AND id = :id -- all spaces""",
            job_space=body.job_space, key=body.unique_key, id=body.id,
        )  # fmt: skip


def note_failure(tx: Tx, body: Body, worker: str, *, started_at_ms: int, error: str) -> None:
    """Keep how this attempt ended: the job itself carries its last error only."""
    tx.run(
        """INSERT INTO onefold.jobs_failures (space, id, attempt, worker, started_at_ms, ended_at_ms, error)
           VALUES (:job_space, :id, :attempt, :worker, :started_at_ms, :now_ms, :error) -- all spaces""",
        job_space=body.job_space, id=body.id, attempt=body.attempt, worker=worker, started_at_ms=started_at_ms,
        error=error,
    )  # fmt: skip


def forget_failures(tx: Tx, ids: Iterable[str]) -> None:
    """These jobs of the transaction's space end, and with them how they failed before."""
    tx.many("DELETE FROM onefold.jobs_failures WHERE space = :space AND id = :id", [{"id": id} for id in ids])


def after_failure(
    tx: Tx, body: Body, worker: str, *, started_at_ms: int, error: str, backoff_ms: int, backoff_max_ms: int
) -> bool:
    """Count a failure: the job is tried again later (True), or dead (False)."""
    error = storable(error, ERROR_LENGTH_MAX)
    note_failure(tx, body, worker, started_at_ms=started_at_ms, error=error)
    changed: dict[str, Any] = {"failures": body.failures + 1, "error": error}
    failed = msgspec.structs.replace(body, **changed)
    tx.emit("jobs.failed", id=body.id, kind=body.kind, queue=body.queue, attempt=body.attempt, error=error)
    if failed.failures >= failed.attempts_max:
        to_dead(tx, failed)
        return False
    # Full jitter: jobs that failed together do not come back together.
    most = min(backoff_ms << min(body.failures, _EXPONENT_MAX), backoff_max_ms)
    to_scheduled(tx, failed, at_ms=tx.now_ms + tx.random.randint(1, most))
    return True


def lost(body: Body) -> Conflict:
    """What an attempt gets that is no longer the job's."""
    return Conflict(
        "This attempt is no longer the job's: it was rescued, cancelled or finished.",
        code="attempt_lost", id=body.id, attempt=body.attempt,
    )  # fmt: skip
