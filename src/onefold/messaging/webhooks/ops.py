"""Webhooks: tell other people's servers, from the transaction that has something to tell.

`send` writes the message and a row per endpoint that wants it. A `Dispatcher` delivers after the commit, at
least once, always under the same `webhook-id`. Endpoints are made in `endpoints`; what a dispatcher does in
the database stands in `delivering`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from onefold.core import codec
from onefold.core.errors import Conflict, Invalid, NotFound
from onefold.core.limits import shaped, whole
from onefold.core.page import LIMIT_DEFAULT, Limit, Page, checked_limit, page_of
from onefold.engine.tx import Tx, operation
from onefold.engine.values import INTEGER_MAX
from onefold.messaging.webhooks.endpoints import all_of, get
from onefold.messaging.webhooks.records import (
    ID_LENGTH_MAX,
    Attempt,
    Backlog,
    Failed,
    Id,
    IdCursor,
    Late,
    Pending,
    Trouble,
    Type,
    checked_id,
    checked_type,
    iso_time,
    wants,
)
from onefold.messaging.webhooks.schedule import DISABLED_BY_ITSELF

BACKLOG_MAX = 1_000  # Messages that `backlog` counts.
REPLAY_MAX = 1_000  # Messages of one call.

# Where a page of attempts ends: a message's id and an attempt's number, or the id alone; and one of a range.
_TRIED = re.compile(rf"(?:([\x20-\x2d\x2f-\x7e]{{1,{ID_LENGTH_MAX}}})(?:\.([0-9]{{1,9}}))?)?")
_SENT = re.compile(rf"([0-9]{{1,15}})\.([\x20-\x7e]{{1,{ID_LENGTH_MAX}}})")
AttemptCursor = Annotated[str, shaped(_TRIED)]
RangeCursor = Annotated[str, shaped(_SENT)]
Moment = Annotated[int, whole(0, INTEGER_MAX)]


@operation
def send(tx: Tx, type: str, payload: object, /) -> str:
    """Send a message to every endpoint of this space that wants its type, when this transaction commits.

    The body is {"type": ..., "timestamp": ..., "data": payload}, written once here and sent as it is.

    Args:
        type: words joined by dots, "order.placed"; at most 100 characters.
        payload: anything with a JSON form; with its envelope at most 64 KiB.

    Returns:
        The message's id, which receivers see as `webhook-id`.

    Raises:
        Invalid: an argument is out of range; nothing was written.
    """
    body = codec.encode({"type": checked_type(type), "timestamp": iso_time(tx.now_ms), "data": payload})
    message_id = tx.new_id("msg")
    tx.run(
        """INSERT INTO onefold.webhook_messages (space, id, type, body, created_at_ms)
           VALUES (:space, :id, :type, :body, :now_ms)""",
        id=message_id, type=type, body=body,
    )  # fmt: skip
    wanting = [{"endpoint_id": found, "id": message_id} for found, types in all_of(tx) if wants(types, type)]
    tx.many(
        """INSERT INTO onefold.webhook_pending (space, endpoint_id, message_id, at_ms, attempt, failures, put_at_ms)
           VALUES (:space, :endpoint_id, :id, :now_ms, 1, 0, :now_ms)""",
        wanting,
    )
    if wanting:
        tx.wake("webhooks")
    tx.emit("webhooks.sent", id=message_id, type=type, endpoints=len(wanting))
    return message_id


@operation
def send_message(tx: Tx, *, type: Type, payload: dict[str, Any]) -> str:
    """`send` for callers over HTTP: `payload` is a JSON object."""
    return send(tx, type, payload)


@operation
def replay(tx: Tx, endpoint_id: Id, *, message_id: Id) -> None:
    """Deliver one message to one endpoint again, now, whatever became of it; with all its attempts.

    One that is under way counts as the first of them.

    Raises:
        NotFound: there is no such endpoint, or no such message any more.
        Conflict: the endpoint is disabled.
    """
    _enabled(tx, endpoint_id)
    found = tx.one(
        "SELECT id FROM onefold.webhook_messages WHERE space = :space AND id = :id {for_share}",
        id=checked_id(message_id),
    )
    if found is None:
        raise NotFound("There is no such message.", id=message_id)
    _again(tx, endpoint_id, [message_id])


@operation
def replay_failed(tx: Tx, endpoint_id: Id, *, limit: Limit = REPLAY_MAX) -> int:
    """Deliver up to `limit` (1 to 1,000) of those that were given up, the oldest first; answer how many.

    Call it again until it answers less than `limit`. Those whose message is gone are dropped.

    Raises:
        NotFound: there is no such endpoint.
        Conflict: it is disabled.
    """
    _enabled(tx, endpoint_id)
    # A column that RETURNING hands to a subquery has no type for SQLite, and no index serves it: hence the CAST.
    rows = tx.all(
        """WITH picked AS MATERIALIZED (
               SELECT f.message_id FROM onefold.webhook_failed f
               WHERE f.space = :space AND f.endpoint_id = :endpoint_id
               ORDER BY f.message_id LIMIT :most {for_update} {skip_locked})
           DELETE FROM onefold.webhook_failed
           WHERE space = :space AND endpoint_id = :endpoint_id AND message_id IN (SELECT message_id FROM picked)
           RETURNING message_id, (SELECT m.id FROM onefold.webhook_messages m
                                  WHERE m.space = :space AND m.id = CAST(onefold.webhook_failed.message_id AS TEXT))""",
        endpoint_id=endpoint_id, most=checked_limit(limit),
    )
    _again(tx, endpoint_id, sorted(row[0] for row in rows if row[1] is not None))
    return len(rows)


@operation
def replay_range(
    tx: Tx, endpoint_id: Id, *, since_ms: Moment, until_ms: Moment, after: RangeCursor | None = None,
    limit: Limit = REPLAY_MAX,
) -> Page[str]:
    """Deliver what was sent from `since_ms` on and before `until_ms`, and that the endpoint wants, again.

    For a receiver that lost what it had, or was disabled meanwhile. One page per call: pass `after` on until
    it is None.

    Args:
        since_ms: in ms since 1970.
        until_ms: the same.
        after: the cursor of the page before.
        limit: how many messages are looked at, 1 to 1,000.

    Returns:
        The ids that were replayed.

    Raises:
        NotFound: there is no such endpoint.
        Conflict: it is disabled.
        Invalid: the range is none.
    """
    page = list_range(tx, endpoint_id, since_ms=since_ms, until_ms=until_ms, after=after, limit=limit)
    _again(tx, endpoint_id, sorted(page.items))
    return page


@operation
def list_range(
    tx: Tx, endpoint_id: str, *, since_ms: int, until_ms: int, after: str | None = None, limit: int = REPLAY_MAX
) -> Page[str]:
    """What `replay_range` would deliver again, page by page; it takes and raises the same, and writes nothing."""
    endpoint = _enabled(tx, endpoint_id)
    if not 0 <= since_ms <= until_ms <= tx.now_ms + 86_400_000:
        raise Invalid(
            "A range ends after it begins, and not in the future.", code="range", since_ms=since_ms, until_ms=until_ms
        )
    from_ms, after_id = _cursor(after) if after is not None else (since_ms, "")
    rows = tx.all(
        """SELECT id, type, created_at_ms FROM onefold.webhook_messages
           WHERE space = :space AND (created_at_ms, id) > (:from_ms, :after_id) AND created_at_ms < :until_ms
           ORDER BY created_at_ms, id LIMIT :most""",
        from_ms=max(from_ms, since_ms), after_id=after_id, until_ms=until_ms, most=checked_limit(limit) + 1,
    )
    wanted = [row[0] for row in rows[:limit] if wants(endpoint.types, row[1])]
    more = f"{rows[limit - 1][2]}.{rows[limit - 1][0]}" if len(rows) > limit else None
    return Page(wanted, more)


@operation
def list_attempts(
    tx: Tx, endpoint_id: Id, *, after: AttemptCursor | None = None, limit: Limit = LIMIT_DEFAULT
) -> Page[Attempt]:
    """What was tried for an endpoint, by message (the oldest first), then by attempt. `limit` is 1 to 1,000.

    Args:
        endpoint_id: also of one that was deleted.
        after: the cursor of the page before, or the id of a message to begin behind.
    """
    place = _TRIED.fullmatch(after or "")
    if place is None:
        raise Invalid("The cursor is none of ours.", code="cursor", length=len(after or ""))
    rows = tx.all(
        """SELECT message_id, attempt, outcome, status, took_ms, detail, at_ms FROM onefold.webhook_attempts
           WHERE space = :space AND endpoint_id = :endpoint_id AND (message_id, attempt) > (:message_id, :number)
           ORDER BY message_id, attempt LIMIT :most""",
        endpoint_id=checked_id(endpoint_id), message_id=place[1] or "", number=int(place[2] or 2**31),
        most=checked_limit(limit) + 1,
    )
    return page_of([Attempt(*row) for row in rows], limit, lambda one: f"{one.message_id}.{one.attempt}")


@operation
def latest_attempts(tx: Tx, endpoint_id: str, *, limit: Limit = LIMIT_DEFAULT) -> list[Attempt]:
    """What was tried of the messages that were sent last, the newest first. `limit` is 1 to 1,000."""
    rows = tx.all(
        """SELECT message_id, attempt, outcome, status, took_ms, detail, at_ms FROM onefold.webhook_attempts
           WHERE space = :space AND endpoint_id = :endpoint_id
           ORDER BY message_id DESC, attempt DESC LIMIT :most""",
        endpoint_id=checked_id(endpoint_id), most=checked_limit(limit),
    )
    return [Attempt(*row) for row in rows]


@operation
def backlog(tx: Tx, endpoint_id: Id) -> Backlog:
    """How much waits for an endpoint, and how much was given up. It looks at 1,001 of each at most.

    Raises:
        NotFound: there is no such endpoint; what still waited for it is on its way out.
    """
    row = tx.one(
        """SELECT (SELECT count(*) FROM (
                       SELECT 1 FROM onefold.webhook_pending p
                       WHERE p.space = :space AND p.endpoint_id = :endpoint_id LIMIT :most) waiting),
                  (SELECT count(*) FROM (
                       SELECT 1 FROM onefold.webhook_failed f
                       WHERE f.space = :space AND f.endpoint_id = :endpoint_id LIMIT :most) failed)
           FROM onefold.webhook_endpoints e WHERE e.space = :space AND e.id = :endpoint_id""",
        endpoint_id=checked_id(endpoint_id), most=BACKLOG_MAX + 1,
    )  # fmt: skip
    if row is None:
        raise NotFound("There is no such endpoint.", id=endpoint_id)
    return Backlog(*row)


@operation
def late(tx: Tx, *, by_ms: int, limit: Limit = LIMIT_DEFAULT) -> list[Late]:
    """Of the first `limit` (1 to 1,000) endpoints those that are enabled, well, and have a message due for `by_ms`.

    Nobody delivers, or whoever does cannot keep up. Those that fail are tried again later, and not told here.
    """
    rows = tx.all(
        """SELECT e.id, e.url, (
               SELECT p.at_ms FROM onefold.webhook_pending p
               WHERE p.space = e.space AND p.endpoint_id = e.id AND p.at_ms <= :before_ms
               ORDER BY p.at_ms, p.message_id LIMIT 1)
           FROM onefold.webhook_endpoints e
           WHERE e.space = :space AND e.id > '' AND e.disabled_at_ms IS NULL AND e.failing_since_ms IS NULL
           ORDER BY e.id LIMIT :most""",
        before_ms=tx.now_ms - by_ms, most=checked_limit(limit),
    )
    return [Late(*row) for row in rows if row[2] is not None]


@operation
def troubles(tx: Tx, *, by_ms: int, limit: Limit = LIMIT_DEFAULT) -> list[Trouble]:
    """Of the first `limit` (1 to 1,000) endpoints of all spaces those that fail, wait or are disabled by themselves.

    For operators. `by_ms`: for how long something must have failed or be due.
    """
    rows = tx.all(
        """SELECT (SELECT n.name FROM onefold.spaces AS n WHERE n.space = e.space), e.id, e.url, e.failing_since_ms,
                  e.disabled_why, (
               SELECT p.at_ms FROM onefold.webhook_pending p
               WHERE p.space = e.space AND p.endpoint_id = e.id AND p.at_ms <= :before_ms
               ORDER BY p.at_ms, p.message_id LIMIT 1)
           FROM onefold.webhook_endpoints AS e WHERE e.space >= 0
           ORDER BY e.space, e.id LIMIT :most -- all spaces""",
        before_ms=tx.now_ms - by_ms, most=checked_limit(limit),
    )  # fmt: skip
    found: list[Trouble] = []
    for name, endpoint_id, url, since_ms, why, due_ms in rows:
        if why is not None:
            if why in DISABLED_BY_ITSELF:
                found.append(Trouble(name or "", endpoint_id, url, since_ms, why, None))
        elif since_ms is not None:
            if since_ms <= tx.now_ms - by_ms:
                found.append(Trouble(name or "", endpoint_id, url, since_ms, None, None))
        elif due_ms is not None:
            found.append(Trouble(name or "", endpoint_id, url, None, None, due_ms))
    return found


@operation
def list_failed(
    tx: Tx, endpoint_id: Id, *, after: IdCursor | None = None, limit: Limit = LIMIT_DEFAULT
) -> Page[Failed]:
    """What was given up for an endpoint, the oldest message first. `limit` is 1 to 1,000.

    Raises:
        NotFound: there is no such endpoint.
    """
    get(tx, endpoint_id)
    rows = tx.all(
        """SELECT f.message_id, (SELECT m.type FROM onefold.webhook_messages m
                                 WHERE m.space = :space AND m.id = f.message_id), f.failed_at_ms
           FROM onefold.webhook_failed f
           WHERE f.space = :space AND f.endpoint_id = :endpoint_id AND f.message_id > :after
           ORDER BY f.message_id LIMIT :most""",
        endpoint_id=endpoint_id, after=checked_id(after) if after else "", most=checked_limit(limit) + 1,
    )
    return page_of([Failed(*row) for row in rows], limit, lambda one: one.message_id)


@operation
def list_pending(
    tx: Tx, endpoint_id: Id, *, after: IdCursor | None = None, limit: Limit = LIMIT_DEFAULT
) -> Page[Pending]:
    """What waits for an endpoint or is on its way, the oldest message first. `limit` is 1 to 1,000.

    Raises:
        NotFound: there is no such endpoint; what still waited for it is on its way out.
    """
    get(tx, endpoint_id)
    rows = tx.all(
        """SELECT message_id, at_ms, attempt, failures FROM onefold.webhook_pending
           WHERE space = :space AND endpoint_id = :endpoint_id AND message_id > :after
           ORDER BY message_id LIMIT :most""",
        endpoint_id=endpoint_id, after=checked_id(after) if after else "", most=checked_limit(limit) + 1,
    )
    return page_of([Pending(*row) for row in rows], limit, lambda one: one.message_id)


def _enabled(tx: Tx, endpoint_id: str) -> Any:
    endpoint = get(tx, endpoint_id)
    if endpoint.disabled_at_ms is not None:
        raise Conflict("The endpoint is disabled; enable it first.", code="disabled", id=endpoint_id)
    return endpoint


def _again(tx: Tx, endpoint_id: str, message_ids: list[str]) -> None:
    """Due now, from the beginning of the schedule. Attempts are numbered on, so that each is logged once."""
    tx.many(
        """DELETE FROM onefold.webhook_failed
           WHERE space = :space AND endpoint_id = :endpoint_id AND message_id = :id""",
        [{"endpoint_id": endpoint_id, "id": message_id} for message_id in message_ids],
    )
    tx.many(
        """INSERT INTO onefold.webhook_pending (space, endpoint_id, message_id, at_ms, attempt, failures, put_at_ms)
           VALUES (:space, :endpoint_id, :id, :now_ms, 1 + coalesce((
                       SELECT max(a.attempt) FROM onefold.webhook_attempts a
                       WHERE a.space = :space AND a.endpoint_id = :endpoint_id AND a.message_id = :id), 0),
                   0, :now_ms)
           ON CONFLICT (space, endpoint_id, message_id) DO UPDATE SET at_ms = excluded.at_ms, failures = 0,
                                                                      put_at_ms = excluded.put_at_ms""",
        [{"endpoint_id": endpoint_id, "id": message_id} for message_id in message_ids],
    )
    if message_ids:
        tx.wake("webhooks")
    tx.emit("webhooks.replayed", id=endpoint_id, count=len(message_ids))


def _cursor(after: str) -> tuple[int, str]:
    place = _SENT.fullmatch(after)
    if place is None:
        raise Invalid("The cursor is none of ours.", code="cursor", length=len(after))
    return int(place[1]), place[2]
