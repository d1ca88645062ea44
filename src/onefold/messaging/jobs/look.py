"""Looking at jobs: one, how it failed, and why it does not run. A page of them: `listing.py`; how many: `counts.py`."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any

from onefold.core.errors import Invalid, NotFound
from onefold.core.limits import shaped
from onefold.core.page import LIMIT_DEFAULT, Limit, Page, checked_limit, page_of
from onefold.engine.tx import Tx, operation
from onefold.engine.values import INTEGER_MAX
from onefold.messaging.jobs.kinds import Name, checked_name
from onefold.messaging.jobs.ops import checked_id
from onefold.messaging.jobs.records import Failure, Job, JobId, PausedQueue

AHEAD_MAX = 1_000  # Jobs counted in front of one.
_ERROR_SHOWN_MAX = 200
_ATTEMPT = re.compile(r"(?:[1-9][0-9]{0,17})?")
FailureCursor = Annotated[str, shaped(_ATTEMPT)]


@operation
def get(tx: Tx, job_id: JobId) -> Job:
    """The job as it is now.

    Raises:
        NotFound: it is finished (and its kind does not keep done jobs), cancelled, swept, or never was.
    """
    rows = tx.all(
        """SELECT 'ready', id, kind, queue, priority, args, attempt, failures, attempts_max, put_at_ms, ready_at_ms,
                  unique_key, progress, error, {null:text}
           FROM onefold.jobs_ready WHERE space = :space AND id = :id
           UNION ALL
           SELECT 'scheduled', id, kind, queue, priority, args, attempt, failures, attempts_max, put_at_ms, at_ms,
                  unique_key, progress, error, {null:text}
           FROM onefold.jobs_scheduled WHERE space = :space AND id = :id
           UNION ALL
           SELECT 'running', id, kind, queue, priority, args, attempt, failures, attempts_max, put_at_ms,
                  claimed_at_ms, unique_key, progress, error, worker
           FROM onefold.jobs_running WHERE space = :space AND id = :id
           UNION ALL
           SELECT 'dead', id, kind, queue, priority, args, attempt, failures, attempts_max, put_at_ms, died_at_ms,
                  unique_key, progress, error, {null:text}
           FROM onefold.jobs_dead WHERE space = :space AND id = :id
           UNION ALL
           SELECT 'done', id, kind, queue, priority, args, attempt, failures, attempts_max, put_at_ms, done_at_ms,
                  {null:text}, {null:text}, {null:text}, {null:text}
           FROM onefold.jobs_done WHERE space = :space AND id = :id AND expires_at_ms > :now_ms""",
        id=checked_id(job_id),
    )
    if not rows:
        raise NotFound("No such job.", id=job_id)
    return job_of(rows[0])


@operation
def list_failures(
    tx: Tx, job_id: JobId, *, after: FailureCursor | None = None, limit: Limit = LIMIT_DEFAULT
) -> Page[Failure]:
    """The attempts of a job that failed, the latest first.

    Args:
        job_id: of which job.
        after: the last page's `after`.
        limit: 1 to 1,000.

    Raises:
        Invalid: an argument is out of range.
        NotFound: there is no such job (any more); an empty page would say that it never failed.
    """
    rows = tx.all(
        """SELECT attempt, worker, started_at_ms, ended_at_ms, error FROM onefold.jobs_failures
           WHERE space = :space AND id = :id AND attempt < :before ORDER BY attempt DESC LIMIT :most""",
        id=checked_id(job_id), before=_checked_attempt(after), most=checked_limit(limit) + 1,
    )  # fmt: skip
    if not rows:
        get(tx, job_id)
    return page_of([Failure(*row) for row in rows], limit, key=lambda failure: str(failure.attempt))


@operation
def list_paused(tx: Tx, *, after: Name | None = None, limit: Limit = LIMIT_DEFAULT) -> Page[PausedQueue]:
    """The queues that are paused in this space, by name."""
    rows = tx.all(
        """SELECT queue, paused_at_ms FROM onefold.jobs_paused WHERE space = :space AND queue > :after
           ORDER BY queue LIMIT :limit""",
        after="" if after is None else checked_name(after), limit=checked_limit(limit) + 1,
    )  # fmt: skip
    return page_of([PausedQueue(*row) for row in rows], limit, key=lambda paused: paused.queue)


@operation
def why(tx: Tx, job_id: JobId) -> str:
    """Why the job is not running, or what became of it, in one sentence.

    Raises:
        NotFound: it is finished, cancelled, swept, or never was.
    """
    job = get(tx, job_id)
    error = f" after {_shown(job.error)}" if job.error else ""
    if job.state == "done":
        return f"It was done at {_at(job.at_ms)}, in attempt {job.attempt}."
    if job.state == "dead":
        return f"It is dead since {_at(job.at_ms)}, failed {job.failures} of {job.attempts_max} times{error}; retry it."
    if job.state == "running":
        return _why_running(tx, job)
    if job.state == "scheduled":
        waits = f"It waits until {_at(job.at_ms)}"
        if job.at_ms <= tx.now_ms:
            return f"{waits}, which is over: no worker or supervisor runs that would promote it."
        if job.failures:
            return f"{waits} to be tried again, failed {job.failures} of {job.attempts_max} times{error}."
        return f"{waits}, as it was put or snoozed."
    return _why_ready(tx, job)


def _why_running(tx: Tx, job: Job) -> str:
    lease = tx.one(
        "SELECT expires_at_ms FROM onefold.jobs_workers WHERE worker = :worker -- all spaces", worker=job.worker
    )
    since = f"since {_at(job.at_ms)}, attempt {job.attempt}, on {job.worker}"
    if lease is not None and lease[0] > tx.now_ms:
        return f"It is running {since}."
    return f"It was running {since}, which has gone silent; the next rescue will try it again."


def _why_ready(tx: Tx, job: Job) -> str:
    paused = tx.one(
        "SELECT paused_at_ms FROM onefold.jobs_paused WHERE space = :space AND queue = :queue", queue=job.queue
    )
    if paused is not None:
        return f'Its queue "{job.queue}" is paused since {_at(paused[0])}; resume it.'
    workers = tx.one(
        """SELECT count(*), coalesce(sum(CASE WHEN replace(w.kinds, :kind, '') <> w.kinds THEN 1 ELSE 0 END), 0)
           FROM onefold.jobs_workers w
           WHERE w.expires_at_ms > :now_ms AND replace(w.queues, :queue, '') <> w.queues -- all spaces""",
        kind=f",{job.kind},", queue=f",{job.queue},",
    )  # fmt: skip
    assert workers is not None
    if not workers[0]:
        return f'No live worker serves its queue "{job.queue}".'
    if not workers[1]:
        return f'It is parked: no live worker of its queue "{job.queue}" knows the kind "{job.kind}".'
    ahead = tx.one(
        """SELECT count(*) FROM (
               SELECT 1 FROM onefold.jobs_ready r
               WHERE r.queue = :queue AND r.priority >= :priority
                 AND (r.priority > :priority
                      OR r.seq + 0 < (SELECT m.seq FROM onefold.jobs_ready m WHERE m.space = :space AND m.id = :id))
               LIMIT :most) waiting""",
        queue=job.queue, priority=job.priority, id=job.id, most=AHEAD_MAX,
    )  # fmt: skip
    assert ahead is not None
    if not ahead[0]:
        return "It is the next to be claimed."
    least = "at least " if ahead[0] == AHEAD_MAX else ""
    return f'It waits its turn: {least}{ahead[0]} jobs of the queue "{job.queue}" are ahead of it.'


def job_of(row: tuple[Any, ...]) -> Job:
    """From its state and its columns in the order of the record's fields."""
    state, *columns = row
    return Job(columns[0], columns[1], state, *columns[2:])


def _checked_attempt(after: str | None) -> int:
    if after is not None and not _ATTEMPT.fullmatch(after):
        raise Invalid("after is what the page before said.", code="after")
    return int(after) if after else INTEGER_MAX


def _at(ms: int) -> str:
    """A moment as people read it, UTC."""
    moment = dt.datetime.fromtimestamp(ms / 1_000, dt.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def _shown(error: str) -> str:
    first = error.splitlines()[0] if error else ""
    return first if len(first) <= _ERROR_SHOWN_MAX else first[:_ERROR_SHOWN_MAX] + "..."
