"""Jobs: put work into the transaction that needs it done; it is started after the commit, once per attempt.

This module is what programs call inside their own functions. What workers do stands in
`attempts`, `leases` and `upkeep`; looking at jobs in `look`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from onefold.core import codec
from onefold.core.errors import Conflict, Invalid, NotFound
from onefold.engine.tx import Tx, operation
from onefold.messaging.jobs.kinds import Name, checked_name, checked_priority, kind_of
from onefold.messaging.jobs.moves import forget_failures, to_ready, to_scheduled
from onefold.messaging.jobs.records import ID_LENGTH_MAX, Body, JobId, State

DELAY_MS_MAX = 31_622_400_000  # 366 days.
PUT_MANY_MAX = 5_000
UNIQUE_LENGTH_MAX = 200
TIME_MS_MAX = 1 << 53  # JSON readers keep whole numbers up to here.


@operation
def put(
    tx: Tx,
    args: msgspec.Struct,
    /,
    *,
    delay_ms: int = 0,
    at_ms: int | None = None,
    priority: int | None = None,
    unique: str | None = None,
    queue: str | None = None,
) -> str | None:
    """Put one job; it exists when, and only when, this transaction commits.

    Args:
        args: a record of a class marked with `kind`; its JSON has at most 64 KiB.
        delay_ms: not before that long from now; 0 to 366 days.
        at_ms: not before that moment; instead of `delay_ms`. A moment in the past means now.
        priority: 2 (first) to -2 (last); None is the kind's.
        unique: 1 to 200 characters; while a job with this key waits or runs, no second one is put.
        queue: None is the kind's.

    Returns:
        The id of the job, or None when one with the same `unique` key waits or runs.

    Raises:
        Invalid: an argument is out of range; nothing was written.
    """
    if at_ms is None:
        at_ms = tx.now_ms + _checked_delay(delay_ms)
    elif delay_ms or not 0 <= at_ms <= tx.now_ms + DELAY_MS_MAX:
        raise Invalid("Give delay_ms or at_ms, at most 366 days ahead.", at_ms=at_ms, delay_ms=delay_ms)
    if unique is not None and not (1 <= len(unique) <= UNIQUE_LENGTH_MAX and "\0" not in unique):
        raise Invalid("A unique key has 1 to 200 characters.", length=len(unique))
    body = _body(tx, args, priority=priority, unique=unique, queue=queue)
    if unique is not None:
        # The key is written before anything is read: of two puts at once one waits for the other.
        taken = tx.one(
            """INSERT INTO onefold.jobs_unique (space, key, id) VALUES (:space, :key, :id)
               ON CONFLICT (space, key) DO NOTHING RETURNING id""",
            key=unique, id=body.id,
        )  # fmt: skip
        if taken is None:
            return None
    if at_ms > tx.now_ms:
        to_scheduled(tx, body, at_ms=at_ms)
    else:
        to_ready(tx, (body,))
    tx.emit("jobs.put", id=body.id, kind=body.kind, queue=body.queue, count=1)
    return body.id


@operation
def put_many(
    tx: Tx,
    many: Sequence[msgspec.Struct],
    /,
    *,
    delay_ms: int = 0,
    priority: int | None = None,
    queue: str | None = None,
) -> list[str]:
    """Put up to 5,000 jobs, of one kind or several, for less than the price of single puts.

    Returns:
        Their ids, in the order given.

    Raises:
        Invalid: an argument is out of range; nothing was written.
    """
    if len(many) > PUT_MANY_MAX:
        raise Invalid("Too many jobs in one call.", count=len(many), most=PUT_MANY_MAX)
    _checked_delay(delay_ms)
    bodies = [_body(tx, args, priority=priority, unique=None, queue=queue) for args in many]
    if delay_ms:
        for body in bodies:
            to_scheduled(tx, body, at_ms=tx.now_ms + delay_ms)
    elif bodies:
        to_ready(tx, bodies)
    for name in {body.kind for body in bodies}:
        tx.emit("jobs.put", kind=name, count=sum(body.kind == name for body in bodies))
    return [body.id for body in bodies]


@operation
def cancel(tx: Tx, job_id: JobId) -> State:
    """Cancel a job that waits or runs; answer the state that it was in.

    It is gone with this commit: a running attempt can no longer finish or write through
    `job.run`, and its worker is told to stop it.

    Raises:
        NotFound: no job with this id waits or runs (it may be done, dead or unknown).
    """
    checked_id(job_id)
    # Below SERIALIZABLE a job may move behind our back while we look from table to table.
    for _ in range(2):
        state, row = _removed(tx, job_id)
        if row is not None:
            break
    else:
        raise NotFound("No such job waits or runs.", id=job_id)
    unique_key, kind, worker, attempt = row
    if unique_key is not None:
        tx.run(
            "DELETE FROM onefold.jobs_unique WHERE space = :space AND key = :key AND id = :id",
            key=unique_key, id=job_id,
        )  # fmt: skip
    if worker is not None:
        tx.run(
            """INSERT INTO onefold.jobs_cancels (space, id, worker, attempt, at_ms)
               VALUES (:space, :id, :worker, :attempt, :now_ms) ON CONFLICT (space, id) DO NOTHING""",
            id=job_id, worker=worker, attempt=attempt,
        )  # fmt: skip
        tx.wake("jobs/cancels")
    if attempt:
        forget_failures(tx, (job_id,))
    tx.emit("jobs.cancelled", id=job_id, kind=kind, state=state)
    return state


@operation
def retry(tx: Tx, job_id: JobId) -> None:
    """Run a dead or a scheduled job now. A dead one starts anew with all its attempts.

    Raises:
        NotFound: no job with this id is dead or scheduled.
        Conflict: another job has its unique key by now.
    """
    checked_id(job_id)
    row = tx.one(
        """DELETE FROM onefold.jobs_scheduled WHERE space = :space AND id = :id
           RETURNING space, space_name, id, kind, queue, priority, args, attempt, failures, attempts_max,
                     unique_key, put_at_ms, progress, error""",
        id=job_id,
    )
    if row is not None:
        to_ready(tx, (Body(*row),))
        return
    row = tx.one(
        """DELETE FROM onefold.jobs_dead WHERE space = :space AND id = :id
           RETURNING space, space_name, id, kind, queue, priority, args, attempt, failures, attempts_max,
                     unique_key, put_at_ms, progress, error""",
        id=job_id,
    )
    if row is None:
        raise NotFound("No such job is dead or scheduled.", id=job_id)
    body = revived(row)
    if not takes_key(tx, body):
        raise Conflict("Another job has its unique key.", code="unique_taken", id=job_id)
    to_ready(tx, (body,))


@operation
def pause(tx: Tx, queue: Name) -> None:
    """Stop serving a queue in this space: nothing of it is claimed after this commit.

    What runs runs on; a claim under way may still go through. Pausing twice is pausing once.
    """
    tx.run(
        """INSERT INTO onefold.jobs_paused (space, queue, paused_at_ms) VALUES (:space, :queue, :now_ms)
           ON CONFLICT (space, queue) DO NOTHING""",
        queue=checked_name(queue),
    )
    tx.emit("jobs.paused", queue=queue)


@operation
def resume(tx: Tx, queue: Name) -> None:
    """Serve a paused queue again. Resuming one that is not paused changes nothing."""
    tx.run(
        "DELETE FROM onefold.jobs_paused WHERE space = :space AND queue = :queue", queue=checked_name(queue)
    )
    tx.wake("jobs/resumed")
    tx.emit("jobs.resumed", queue=queue)


def checked_id(job_id: str) -> str:
    """`job_id` itself, or Invalid when no job can be called so."""
    if not (1 <= len(job_id) <= ID_LENGTH_MAX and "\0" not in job_id):
        raise Invalid("A job's id has 1 to 60 characters.", length=len(job_id))
    return job_id



def _checked_delay(delay_ms: int) -> int:
    if not 0 <= delay_ms <= DELAY_MS_MAX:
        raise Invalid("delay_ms is 0 to 366 days.", delay_ms=delay_ms, most=DELAY_MS_MAX)
    return delay_ms


def _body(tx: Tx, args: msgspec.Struct, *, priority: int | None, unique: str | None, queue: str | None) -> Body:
    spec = kind_of(type(args))
    return Body(
        job_space=tx.space,
        space_name=tx.space_name,
        id=tx.new_id("job"),
        kind=spec.name,
        queue=spec.queue if queue is None else checked_name(queue),
        priority=spec.priority if priority is None else checked_priority(priority),
        args=codec.encode(args, what=spec.name),
        attempt=0,
        failures=0,
        attempts_max=spec.attempts,
        unique_key=unique,
        put_at_ms=tx.now_ms,
        progress=None,
        error=None,
    )


def _removed(tx: Tx, job_id: str) -> tuple[State, tuple[Any, ...] | None]:
    """Delete the job from where it waits or runs: its unique key, kind, worker and attempt."""
    row = tx.one(
        """DELETE FROM onefold.jobs_ready WHERE space = :space AND id = :id
           RETURNING unique_key, kind, {null:text}, attempt""",
        id=job_id,
    )
    if row is not None:
        return "ready", row
    row = tx.one(
        """DELETE FROM onefold.jobs_scheduled WHERE space = :space AND id = :id
           RETURNING unique_key, kind, {null:text}, attempt""",
        id=job_id,
    )
    if row is not None:
        return "scheduled", row
    return "running", tx.one(
        """DELETE FROM onefold.jobs_running WHERE space = :space AND id = :id
           RETURNING unique_key, kind, worker, attempt""",
        id=job_id,
    )


def revived(row: tuple[Any, ...]) -> Body:
    """A dead job's columns as it begins anew, with all its attempts."""
    return msgspec.structs.replace(Body(*row), failures=0)


def takes_key(tx: Tx, body: Body) -> bool:
    """Whether the job has its unique key now, or wants none."""
    if body.unique_key is None:
        return True
    taken = tx.one(
        """INSERT INTO onefold.jobs_unique (space, key, id) VALUES (:space, :key, :id)
           ON CONFLICT (space, key) DO NOTHING RETURNING id""",
        key=body.unique_key, id=body.id,
    )  # fmt: skip
    return taken is not None
