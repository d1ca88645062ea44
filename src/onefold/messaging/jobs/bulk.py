"""Doing one thing to many jobs, step by step: each step is one short transaction, and says where the next begins."""

from __future__ import annotations

from typing import Annotated

import msgspec

from onefold.core.errors import Invalid, NotFound
from onefold.core.limits import whole
from onefold.engine.tx import Tx, operation
from onefold.messaging.jobs.kinds import Name
from onefold.messaging.jobs.moves import forget_failures, to_ready
from onefold.messaging.jobs.ops import cancel, revived, takes_key
from onefold.messaging.jobs.records import Body, Fingerprint, JobCursor, State
from onefold.messaging.jobs.survey import Glance, glance

STEP_MAX = 500  # Jobs changed in one transaction; more would hold up writers.
STEP_DEFAULT = 200
StepLimit = Annotated[int, whole(1, STEP_MAX)]


class Step(msgspec.Struct, frozen=True):
    """What one step did.

    Attributes:
        done: jobs that were changed.
        left_out: jobs that were looked at and could not be: another job has their unique key by now, or they ended.
        after: where the next step begins; None when there is nothing more to look at.
    """

    done: int
    left_out: int
    after: str | None


@operation
def retry_dead(
    tx: Tx, kind: Name, *, fingerprint: Fingerprint | None = None, after: JobCursor | None = None,
    limit: StepLimit = STEP_DEFAULT,
) -> Step:
    """Run dead jobs of a kind again, those put first before others: one step of it.

    Whoever goes on until `after` is None has seen each once, however quickly they die anew. One whose
    unique key another job has by now stays dead.

    Args:
        kind: of which kind.
        fingerprint: only those with such an error, see `fingerprint_of`; None takes all.
        after: the `after` of the step before.
        limit: jobs in this step, 1 to 500.

    Raises:
        Invalid: an argument is out of range; nothing was written.
    """
    page = glance(tx, "dead", kind=kind, fingerprint=fingerprint, after=after, limit=_checked(limit))
    revived_now = [body for job in page.items if (body := _revive(tx, job)) is not None]
    if revived_now:
        to_ready(tx, revived_now)
    return Step(len(revived_now), len(page.items) - len(revived_now), page.after)


@operation
def purge_dead(
    tx: Tx, kind: Name, *, fingerprint: Fingerprint | None = None, after: JobCursor | None = None,
    limit: StepLimit = STEP_DEFAULT,
) -> Step:
    """Forget dead jobs of a kind; arguments as for `retry_dead`."""
    page = glance(tx, "dead", kind=kind, fingerprint=fingerprint, after=after, limit=_checked(limit))
    tx.many("DELETE FROM onefold.jobs_dead WHERE space = :space AND id = :id", [{"id": job.id} for job in page.items])
    forget_failures(tx, [job.id for job in page.items])
    if page.items:
        tx.emit("jobs.purged", kind=kind, count=len(page.items))
    return Step(len(page.items), 0, page.after)


@operation
def cancel_many(
    tx: Tx, kind: str, *, state: State = "ready", after: str | None = None, limit: int = STEP_DEFAULT
) -> Step:
    """Cancel jobs of a kind that wait or run: one step of it. Those that end meanwhile are left out.

    Args:
        kind: of which kind.
        state: "ready", "scheduled" or "running".
        after: the `after` of the step before.
        limit: jobs in this step, 1 to 500.

    Raises:
        Invalid: an argument is out of range; nothing was written.
    """
    if state not in {"ready", "scheduled", "running"}:
        raise Invalid("Jobs that can be cancelled are ready, scheduled or running.", code="state")
    page = glance(tx, state, kind=kind, after=after, limit=_checked(limit))
    done = sum(_cancelled(tx, job.id) for job in page.items)
    return Step(done, len(page.items) - done, page.after)


def _cancelled(tx: Tx, job_id: str) -> bool:
    try:
        with tx.savepoint():
            cancel(tx, job_id)
    except NotFound:  # It ended meanwhile, which READ COMMITTED lets us see.
        return False
    return True


def _revive(tx: Tx, job: Glance) -> Body | None:
    row = tx.one(
        """SELECT space, space_name, id, kind, queue, priority, args, attempt, failures, attempts_max,
                  unique_key, put_at_ms, progress, error
           FROM onefold.jobs_dead WHERE space = :space AND id = :id {for_update}""",
        id=job.id,
    )
    # Its key first: if another job has it, this one stays where it is. Taken by somebody else meanwhile: gone.
    if row is None or not takes_key(tx, body := revived(row)):
        return None
    tx.run("DELETE FROM onefold.jobs_dead WHERE space = :space AND id = :id", id=job.id)
    return body


def _checked(limit: int) -> int:
    if not 1 <= limit <= STEP_MAX:
        raise Invalid("limit is out of range.", limit=limit, most=STEP_MAX)
    return limit
