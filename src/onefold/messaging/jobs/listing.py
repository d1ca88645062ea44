"""A page of the jobs in a state, as whole as they are stored; without arguments, for dashboards: `survey.glance`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from onefold.core.errors import Invalid
from onefold.core.page import LIMIT_DEFAULT, Limit, Page, checked_limit
from onefold.engine.tx import Row, Tx, operation
from onefold.messaging.jobs.kinds import Name, checked_name
from onefold.messaging.jobs.look import job_of
from onefold.messaging.jobs.ops import checked_id
from onefold.messaging.jobs.records import ID_BEYOND, Job, JobId, State
from onefold.messaging.jobs.survey import LOOKED_MAX


@operation
def list_jobs(
    tx: Tx, *, state: State, kind: Name | None = None, after: JobId | None = None, limit: Limit = LIMIT_DEFAULT
) -> Page[Job]:
    """Jobs of this space in a state, in the order in which they were put.

    Where an index does not find them (by kind those that are not dead, and done ones) it looks at 2,000 jobs and
    answers those that fit. So a page may hold fewer than `limit`, or none, and still have an `after`, from which
    to look on.

    Args:
        state: "ready", "scheduled", "running", "dead" or "done".
        kind: only of this kind.
        after: the last page's `after`.
        limit: 1 to 1,000.

    Raises:
        Invalid: an argument is out of range.
    """
    if state not in _LISTS:
        raise Invalid("A state is ready, scheduled, running, dead or done.", code="state")
    first = "" if after is None else checked_id(after)
    name = "" if kind is None else checked_name(kind)
    most = checked_limit(limit) + 1
    edge: Row | None = None
    if kind is not None and state == "dead":
        rows = _list_dead_of_kind(tx, kind=name, after=first, most=most)
    else:
        # Those that do not fit cost as much as those that do, so the page ends where enough were looked at.
        if kind is not None or state == "done":
            edge = _EDGES[state](tx, first)
        until = ID_BEYOND if edge is None else edge[0]
        rows = _LISTS[state](tx, every=kind is None, kind=name, after=first, until=until, most=most)
    found = [job_of((state, *row)) for row in rows]
    if len(found) > limit:
        return Page(found[:limit], found[limit - 1].id)
    return Page(found, None if edge is None else edge[0])


def _list_ready(tx: Tx, *, every: bool, kind: str, after: str, until: str, most: int) -> list[Row]:
    return tx.all(
        """SELECT id, kind, queue, priority, args, attempt, failures, attempts_max, put_at_ms, ready_at_ms,
                  unique_key, progress, error, {null:text}
           FROM onefold.jobs_ready
           WHERE space = :space AND id > :after AND id <= :until AND (:every = 1 OR kind = :kind)
           ORDER BY id LIMIT :most""",
        every=int(every), kind=kind, after=after, until=until, most=most,
    )  # fmt: skip


def _list_scheduled(tx: Tx, *, every: bool, kind: str, after: str, until: str, most: int) -> list[Row]:
    return tx.all(
        """SELECT id, kind, queue, priority, args, attempt, failures, attempts_max, put_at_ms, at_ms,
                  unique_key, progress, error, {null:text}
           FROM onefold.jobs_scheduled
           WHERE space = :space AND id > :after AND id <= :until AND (:every = 1 OR kind = :kind)
           ORDER BY id LIMIT :most""",
        every=int(every), kind=kind, after=after, until=until, most=most,
    )  # fmt: skip


def _list_running(tx: Tx, *, every: bool, kind: str, after: str, until: str, most: int) -> list[Row]:
    return tx.all(
        """SELECT id, kind, queue, priority, args, attempt, failures, attempts_max, put_at_ms, claimed_at_ms,
                  unique_key, progress, error, worker
           FROM onefold.jobs_running
           WHERE space = :space AND id > :after AND id <= :until AND (:every = 1 OR kind = :kind)
           ORDER BY id LIMIT :most""",
        every=int(every), kind=kind, after=after, until=until, most=most,
    )  # fmt: skip


def _list_dead(tx: Tx, *, every: bool, kind: str, after: str, until: str, most: int) -> list[Row]:
    return tx.all(
        """SELECT id, kind, queue, priority, args, attempt, failures, attempts_max, put_at_ms, died_at_ms,
                  unique_key, progress, error, {null:text}
           FROM onefold.jobs_dead
           WHERE space = :space AND id > :after AND id <= :until AND (:every = 1 OR kind = :kind)
           ORDER BY id LIMIT :most""",
        every=int(every), kind=kind, after=after, until=until, most=most,
    )  # fmt: skip


def _list_dead_of_kind(tx: Tx, *, kind: str, after: str, most: int) -> list[Row]:
    # A range, not `kind = :kind AND id > :after`: for that SQLite takes the primary key, and walks past all others.
    return tx.all(
        """SELECT id, kind, queue, priority, args, attempt, failures, attempts_max, put_at_ms, died_at_ms,
                  unique_key, progress, error, {null:text}
           FROM onefold.jobs_dead WHERE space = :space AND (kind, id) > (:kind, :after) AND kind <= :kind
           ORDER BY kind, id LIMIT :most""",
        kind=kind, after=after, most=most,
    )  # fmt: skip


def _list_done(tx: Tx, *, every: bool, kind: str, after: str, until: str, most: int) -> list[Row]:
    return tx.all(
        """SELECT id, kind, queue, priority, args, attempt, failures, attempts_max, put_at_ms, done_at_ms,
                  {null:text}, {null:text}, {null:text}, {null:text}
           FROM onefold.jobs_done
           WHERE space = :space AND id > :after AND id <= :until AND (:every = 1 OR kind = :kind)
             AND expires_at_ms > :now_ms
           ORDER BY id LIMIT :most""",
        every=int(every), kind=kind, after=after, until=until, most=most,
    )  # fmt: skip


def _edge_ready(tx: Tx, after: str) -> Row | None:
    return tx.one(
        """SELECT id FROM onefold.jobs_ready WHERE space = :space AND id > :after
           ORDER BY id LIMIT 1 OFFSET :skipped""",
        after=after, skipped=LOOKED_MAX - 1,
    )  # fmt: skip


def _edge_scheduled(tx: Tx, after: str) -> Row | None:
    return tx.one(
        """SELECT id FROM onefold.jobs_scheduled WHERE space = :space AND id > :after
           ORDER BY id LIMIT 1 OFFSET :skipped""",
        after=after, skipped=LOOKED_MAX - 1,
    )  # fmt: skip


def _edge_running(tx: Tx, after: str) -> Row | None:
    return tx.one(
        """SELECT id FROM onefold.jobs_running WHERE space = :space AND id > :after
           ORDER BY id LIMIT 1 OFFSET :skipped""",
        after=after, skipped=LOOKED_MAX - 1,
    )  # fmt: skip


def _edge_done(tx: Tx, after: str) -> Row | None:
    return tx.one(
        """SELECT id FROM onefold.jobs_done WHERE space = :space AND id > :after
           ORDER BY id LIMIT 1 OFFSET :skipped""",
        after=after, skipped=LOOKED_MAX - 1,
    )  # fmt: skip


class _List(Protocol):
    def __call__(self, tx: Tx, /, *, every: bool, kind: str, after: str, until: str, most: int) -> list[Row]: ...


_LISTS: dict[str, _List] = {
    "ready": _list_ready, "scheduled": _list_scheduled, "running": _list_running, "dead": _list_dead,
    "done": _list_done,
}  # fmt: skip
_EDGES: dict[str, Callable[[Tx, str], Row | None]] = {
    "ready": _edge_ready, "scheduled": _edge_scheduled, "running": _edge_running, "done": _edge_done,
}
