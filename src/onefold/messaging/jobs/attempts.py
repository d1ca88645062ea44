"""What a worker does to jobs: claim, finish, fail, snooze; each fenced by the attempt's number.

A claim is an engine loop: READ COMMITTED, one deciding DELETE per queue, all spaces at once. The
rest run in the job's space, composed with the effects of the handler, at any isolation: whoever
deletes or locks the running row that carries the attempt's number is the one who counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

import msgspec

from onefold.core.errors import Conflict, Invalid
from onefold.core.said import storable
from onefold.engine.require import require
from onefold.engine.tx import Tx, operation
from onefold.messaging.jobs.kinds import KEEP_DONE_MS_MAX
from onefold.messaging.jobs.moves import (
    after_failure,
    columns_of,
    forget_failures,
    lost,
    note_failure,
    release_key,
    to_dead,
    to_ready,
    to_scheduled,
)
from onefold.messaging.jobs.ops import DELAY_MS_MAX
from onefold.messaging.jobs.records import ERROR_LENGTH_MAX, PROGRESS_LENGTH_MAX, Attempt, Body

P = ParamSpec("P")
R = TypeVar("R")

CLAIM_MAX = 1_000

# One branch per lane, in the order of priority; LIMIT makes both engines stop at the first branch
# that fills it. A branch walks the index from `low` on, so that neither dead index entries nor
# jobs that this worker does not know stand in its way. `replace(...) <> :kinds` is "kind is in the
# list", the same on both engines; the scalar subquery is one that no planner turns into a join,
# which would cost the order of the index; `seq + 0` is the index's own expression.
_PICKED = """
WITH picked AS MATERIALIZED (
    SELECT seq FROM (
        SELECT r.seq FROM onefold.jobs_ready r
        WHERE r.queue = :queue AND r.priority = 2 AND r.seq + 0 >= :low_0
          AND replace(:kinds, ',' || r.kind || ',', '') <> :kinds AND (:every = 1 OR r.space = :home)
          AND (SELECT p.queue FROM onefold.jobs_paused p WHERE p.space = r.space AND p.queue = r.queue) IS NULL
        ORDER BY r.seq + 0 LIMIT :room {for_update} {skip_locked}) lane_0
    UNION ALL SELECT seq FROM (
        SELECT r.seq FROM onefold.jobs_ready r
        WHERE r.queue = :queue AND r.priority = 1 AND r.seq + 0 >= :low_1
          AND replace(:kinds, ',' || r.kind || ',', '') <> :kinds AND (:every = 1 OR r.space = :home)
          AND (SELECT p.queue FROM onefold.jobs_paused p WHERE p.space = r.space AND p.queue = r.queue) IS NULL
        ORDER BY r.seq + 0 LIMIT :room {for_update} {skip_locked}) lane_1
    UNION ALL SELECT seq FROM (
        SELECT r.seq FROM onefold.jobs_ready r
        WHERE r.queue = :queue AND r.priority = 0 AND r.seq + 0 >= :low_2
          AND replace(:kinds, ',' || r.kind || ',', '') <> :kinds AND (:every = 1 OR r.space = :home)
          AND (SELECT p.queue FROM onefold.jobs_paused p WHERE p.space = r.space AND p.queue = r.queue) IS NULL
        ORDER BY r.seq + 0 LIMIT :room {for_update} {skip_locked}) lane_2
    UNION ALL SELECT seq FROM (
        SELECT r.seq FROM onefold.jobs_ready r
        WHERE r.queue = :queue AND r.priority = -1 AND r.seq + 0 >= :low_3
          AND replace(:kinds, ',' || r.kind || ',', '') <> :kinds AND (:every = 1 OR r.space = :home)
          AND (SELECT p.queue FROM onefold.jobs_paused p WHERE p.space = r.space AND p.queue = r.queue) IS NULL
        ORDER BY r.seq + 0 LIMIT :room {for_update} {skip_locked}) lane_3
    UNION ALL SELECT seq FROM (
        SELECT r.seq FROM onefold.jobs_ready r
        WHERE r.queue = :queue AND r.priority = -2 AND r.seq + 0 >= :low_4
          AND replace(:kinds, ',' || r.kind || ',', '') <> :kinds AND (:every = 1 OR r.space = :home)
          AND (SELECT p.queue FROM onefold.jobs_paused p WHERE p.space = r.space AND p.queue = r.queue) IS NULL
        ORDER BY r.seq + 0 LIMIT :room {for_update} {skip_locked}) lane_4
    LIMIT :room) -- all spaces
"""

# Of what is picked, PostgreSQL moves all in the same statement; SQLite cannot insert what it deletes.
CLAIM_SQLITE = _PICKED + """
DELETE FROM onefold.jobs_ready WHERE onefold.jobs_ready.seq IN (SELECT seq FROM picked) -- all spaces
RETURNING space, space_name, id, kind, queue, priority, args, attempt + 1, failures, attempts_max, unique_key,
          put_at_ms, progress, error, :worker, seq
"""  # noqa: S608  Of literals.
CLAIM_POSTGRES = _PICKED + """
, gone AS (
    DELETE FROM onefold.jobs_ready WHERE onefold.jobs_ready.seq IN (SELECT seq FROM picked) -- all spaces
    RETURNING space, space_name, id, kind, queue, priority, args, attempt + 1 AS attempt, failures, attempts_max,
              unique_key, put_at_ms, progress, error, seq),
moved AS (
    INSERT INTO onefold.jobs_running (space, space_name, id, kind, queue, priority, args, attempt, failures,
                                      attempts_max, unique_key, put_at_ms, progress, error, worker, claimed_at_ms)
    SELECT space, space_name, id, kind, queue, priority, args, attempt, failures, attempts_max, unique_key,
           put_at_ms, progress, error, :worker, :now_ms FROM gone)
SELECT space, space_name, id, kind, queue, priority, args, attempt, failures, attempts_max, unique_key,
       put_at_ms, progress, error, :worker, seq FROM gone
"""  # noqa: S608

Lows = tuple[int, int, int, int, int]


class Wanted(NamedTuple):
    """What a worker can take: of which kinds, in which spaces, and from where in each lane on.

    Attributes:
        kinds: ",receipt.send,invoice.post,".
        home: the number of the only space to serve; None serves all.
        lows: for each queue, in the order of preference, the first number of its five lanes.
    """

    kinds: str
    home: int | None
    lows: Sequence[tuple[str, Lows]]


@operation
def claim(tx: Tx, worker: str, wanted: Wanted, *, room: int) -> list[Attempt]:
    """Take up to `room` jobs for a worker; all spaces.

    Raises:
        Conflict: the worker's lease was given up; enlist anew. Nothing was claimed.
        Invalid: `room` is not 1 to 1,000.
    """
    if not 1 <= room <= CLAIM_MAX:
        raise Invalid("room is out of range.", room=room, most=CLAIM_MAX)
    require(
        tx, "SELECT worker FROM onefold.jobs_workers WHERE space = :space AND worker = :worker {for_share}",
        lambda: Conflict("The worker was given up.", code="worker_lost", worker=worker), worker=worker,
    )  # fmt: skip
    attempts: list[Attempt] = []
    moves = tx.dialect == "postgres"
    for queue, lows in wanted.lows:
        rows = tx.all(
            CLAIM_POSTGRES if moves else CLAIM_SQLITE, queue=queue, worker=worker, kinds=wanted.kinds,
            every=int(wanted.home is None), home=wanted.home or 0, room=room - len(attempts),
            low_0=lows[0], low_1=lows[1], low_2=lows[2], low_3=lows[3], low_4=lows[4],
        )  # fmt: skip
        # Neither RETURNING nor a CTE promises an order.
        rows.sort(key=lambda row: (-row[5], row[-1]))
        attempts += [Attempt(*row) for row in rows]
        if len(attempts) >= room:
            break
    if attempts and not moves:
        tx.many(
            """INSERT INTO onefold.jobs_running (space, space_name, id, kind, queue, priority, args, attempt, failures,
                                                 attempts_max, unique_key, put_at_ms, progress, error, worker,
                                                 claimed_at_ms)
               VALUES (:job_space, :space_name, :id, :kind, :queue, :priority, :args, :attempt, :failures,
                       :attempts_max, :unique_key, :put_at_ms, :progress, :error, :worker, :now_ms) -- all spaces""",
            map(columns_of, attempts),
        )
    return attempts


@operation
def check(tx: Tx, attempt: Attempt) -> None:
    """Make this transaction count only if the attempt is still the job's.

    Until the transaction ends nobody can rescue or cancel the job.

    Raises:
        Conflict: it is not ("attempt_lost").
    """
    _own_space(tx, attempt)
    require(
        tx,
        """SELECT attempt FROM onefold.jobs_running
           WHERE space = :space AND id = :id AND attempt = :attempt {for_share}""",
        lambda: lost(attempt), id=attempt.id, attempt=attempt.attempt,
    )  # fmt: skip


@operation
def finish(tx: Tx, attempt: Attempt, *, keep_done_ms: int = 0) -> None:
    """End the job well. What else this transaction writes is its effect, once.

    Raises:
        Conflict: the attempt is no longer the job's ("attempt_lost").
    """
    if not 0 <= keep_done_ms <= KEEP_DONE_MS_MAX:
        raise Invalid("keep_done_ms is out of range.", keep_done_ms=keep_done_ms, most=KEEP_DONE_MS_MAX)
    _own_space(tx, attempt)
    require(
        tx,
        """DELETE FROM onefold.jobs_running WHERE space = :space AND id = :id AND attempt = :attempt
           RETURNING attempt""",
        lambda: lost(attempt), id=attempt.id, attempt=attempt.attempt,
    )  # fmt: skip
    release_key(tx, attempt)
    if attempt.attempt > 1 and not keep_done_ms:
        forget_failures(tx, (attempt.id,))
    if keep_done_ms:
        tx.run(
            """INSERT INTO onefold.jobs_done (space, id, kind, queue, priority, args, attempt, failures, attempts_max,
                                              put_at_ms, done_at_ms, expires_at_ms)
               VALUES (:space, :id, :kind, :queue, :priority, :args, :attempt, :failures, :attempts_max,
                       :put_at_ms, :now_ms, :now_ms + :keep_done_ms)""",
            keep_done_ms=keep_done_ms, **columns_of(attempt),
        )  # fmt: skip
    tx.emit("jobs.finished", id=attempt.id, kind=attempt.kind, queue=attempt.queue, attempt=attempt.attempt)


def finish_with(
    tx: Tx,
    attempt: Attempt,
    keep_done_ms: int,
    fn: Callable[Concatenate[Tx, P], R],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> R:
    """Effect and completion in one transaction: `finish`, then `fn(tx, *args, **kwargs)`."""
    finish(tx, attempt, keep_done_ms=keep_done_ms)
    return fn(tx, *args, **kwargs)


def checked_with(
    tx: Tx, attempt: Attempt, fn: Callable[Concatenate[Tx, P], R], /, *args: P.args, **kwargs: P.kwargs
) -> R:
    """`fn(tx, *args, **kwargs)`, which counts only if the attempt is still the job's."""
    check(tx, attempt)
    return fn(tx, *args, **kwargs)


@operation
def fail(tx: Tx, attempt: Attempt, *, error: str, backoff_ms: int, backoff_max_ms: int) -> bool:
    """Count a failure: True, the job is tried again after a backoff; False, it is dead.

    Raises:
        Conflict: the attempt is no longer the job's ("attempt_lost").
    """
    body, started_at_ms = _leave_running(tx, attempt)
    return after_failure(
        tx, body, attempt.worker, started_at_ms=started_at_ms, error=error, backoff_ms=max(1, backoff_ms),
        backoff_max_ms=max(1, backoff_max_ms),
    )  # fmt: skip


@operation
def give_up(tx: Tx, attempt: Attempt, *, reason: str) -> None:
    """Send the job to the dead letters at once.

    Raises:
        Conflict: the attempt is no longer the job's ("attempt_lost").
    """
    body, started_at_ms = _leave_running(tx, attempt)
    text = storable(f"given up by its handler: {reason}", ERROR_LENGTH_MAX)
    note_failure(tx, body, attempt.worker, started_at_ms=started_at_ms, error=text)
    to_dead(tx, msgspec.structs.replace(body, error=text))


@operation
def snooze(tx: Tx, attempt: Attempt, *, after_ms: int) -> None:
    """Let the job wait and run again; the attempt does not count as a failure.

    Args:
        after_ms: 0 to 366 days. With 0 it goes to the end of its lane, which is how a worker
            hands back what it cannot work on.

    Raises:
        Conflict: the attempt is no longer the job's ("attempt_lost").
    """
    if not 0 <= after_ms <= DELAY_MS_MAX:
        raise Invalid("after_ms is 0 to 366 days.", after_ms=after_ms, most=DELAY_MS_MAX)
    body, _ = _leave_running(tx, attempt)
    if after_ms:
        to_scheduled(tx, body, at_ms=tx.now_ms + after_ms)
    else:
        to_ready(tx, (body,))
    tx.emit("jobs.snoozed", id=body.id, kind=body.kind, queue=body.queue, after_ms=after_ms)


@operation
def note(tx: Tx, attempt: Attempt, progress: str) -> None:
    """Keep a small JSON text with the job: people see it, and the next attempt goes on from it.

    Raises:
        Conflict: the attempt is no longer the job's ("attempt_lost").
        Invalid: it has more than 4,096 characters.
    """
    if len(progress) > PROGRESS_LENGTH_MAX:
        raise Invalid("Progress is at most 4 KiB of JSON.", length=len(progress), most=PROGRESS_LENGTH_MAX)
    _own_space(tx, attempt)
    require(
        tx,
        """UPDATE onefold.jobs_running SET progress = :progress
           WHERE space = :space AND id = :id AND attempt = :attempt RETURNING attempt""",
        lambda: lost(attempt), id=attempt.id, attempt=attempt.attempt, progress=progress,
    )  # fmt: skip


def _leave_running(tx: Tx, attempt: Attempt) -> tuple[Body, int]:
    """Delete the running row of this very attempt: the job with the progress noted last, and when it was started."""
    _own_space(tx, attempt)
    row = tx.one(
        """DELETE FROM onefold.jobs_running WHERE space = :space AND id = :id AND attempt = :attempt
           RETURNING progress, claimed_at_ms""",
        id=attempt.id, attempt=attempt.attempt,
    )  # fmt: skip
    if row is None:
        raise lost(attempt)
    return msgspec.structs.replace(attempt, progress=row[0]), row[1]


def _own_space(tx: Tx, attempt: Attempt) -> None:
    if tx.space != attempt.job_space:
        raise Invalid("A job is finished in its own space.", job=attempt.space_name, space=tx.space_name)
