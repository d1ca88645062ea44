"""What a dispatcher does in the database. Engine loops at READ COMMITTED, over all spaces at once.

An endpoint's lane belongs to one dispatcher at a time, by a lease with a number. So nothing is written to
begin an attempt; its end is one batch of writes, which counts only for lanes whose number is still the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from onefold.core.errors import Invalid
from onefold.core.said import storable
from onefold.engine.reserved import reserved
from onefold.engine.tx import Tx, operation
from onefold.messaging.webhooks.endpoints import endpoint_of
from onefold.messaging.webhooks.records import DETAIL_LENGTH_MAX, Endpoint, Outcome
from onefold.messaging.webhooks.schedule import DISABLE_AFTER_MS, GONE, WHY_FAILING, WHY_GONE, pause_ms

LEASE_MS_MIN = 1_000
LEASE_MS_MAX = 600_000
SURVEY_MAX = 200  # Endpoints of one look.
NOTED_MAX = 100  # Attempts of one transaction: on SQLite everybody's writes wait for it, and a busy loop makes it slow.


class Seen(msgspec.Struct, frozen=True):
    """An endpoint for which something waits.

    Attributes:
        endpoint_id: which.
        at_ms: when the first of it is due.
        owner: who delivers to it, or delivered last.
        lease_ms: how long the lease still lasts; 0 or less: anybody may take the lane.
        enabled: whether anything may be sent there.
    """

    endpoint_id: str
    at_ms: int
    owner: str
    lease_ms: int
    enabled: bool


class Lane(msgspec.Struct, frozen=True):
    """An endpoint's lane as its owner holds it."""

    lane_space: int
    endpoint_id: str
    token: int


class Item(msgspec.Struct, frozen=True):
    """A delivery that is due. `body` is None when the message is over its retention."""

    message_id: str
    attempt: int
    failures: int
    body: str | None


class Made(msgspec.Struct, frozen=True):
    """An attempt that was made, and what came of it.

    `final`: it is not tried again, whatever the schedule says.
    """

    lane: Lane
    item: Item
    outcome: Outcome
    status: int | None
    took_ms: int
    detail: str
    retry_after_ms: int = 0
    final: bool = False


@operation
def survey(tx: Tx, after: str, *, most: int = SURVEY_MAX) -> tuple[int, list[Seen]]:
    """The time, and the next endpoints behind the id `after` for which something waits, due or not."""
    rows = tx.all(
        """WITH RECURSIVE waiting(endpoint_id, n) AS (
               SELECT (SELECT min(p.endpoint_id) FROM onefold.webhook_pending p WHERE p.endpoint_id > :after), 1
               UNION ALL
               SELECT (SELECT min(p.endpoint_id) FROM onefold.webhook_pending p
                       WHERE p.endpoint_id > w.endpoint_id), w.n + 1
               FROM waiting w WHERE w.endpoint_id IS NOT NULL AND w.n < :most)
           SELECT w.endpoint_id,
                  (SELECT min(p.at_ms) FROM onefold.webhook_pending p WHERE p.endpoint_id = w.endpoint_id),
                  (SELECT l.owner FROM onefold.webhook_lanes l WHERE l.endpoint_id = w.endpoint_id),
                  (SELECT l.expires_at_ms FROM onefold.webhook_lanes l WHERE l.endpoint_id = w.endpoint_id),
                  (SELECT e.created_at_ms FROM onefold.webhook_endpoints e
                   WHERE e.space = (SELECT l.space FROM onefold.webhook_lanes l WHERE l.endpoint_id = w.endpoint_id)
                     AND e.id = w.endpoint_id AND e.disabled_at_ms IS NULL)
           FROM waiting w WHERE w.endpoint_id IS NOT NULL ORDER BY w.endpoint_id -- all spaces""",
        after=after, most=most,
    )
    return tx.now_ms, [
        Seen(row[0], row[1], row[2] or "", (row[3] or 0) - tx.now_ms, enabled=row[4] is not None) for row in rows
    ]


@operation
def acquire(tx: Tx, owner: str, endpoint_ids: Sequence[str], *, lease_ms: int) -> list[Lane]:
    """Take the lanes whose lease is over, each with a new number; those that somebody else took are left out.

    The owner gets its own too: of a commit whose outcome it was not told.
    """
    if not LEASE_MS_MIN <= lease_ms <= LEASE_MS_MAX:
        raise Invalid("lease_ms is out of range.", lease_ms=lease_ms, least=LEASE_MS_MIN, most=LEASE_MS_MAX)
    lanes: list[Lane] = []
    for endpoint_id in sorted(endpoint_ids):  # In one order, as everywhere here: nobody waits in a ring.
        row = tx.one(
            """UPDATE onefold.webhook_lanes SET owner = :owner, token = token + 1, expires_at_ms = :now_ms + :lease_ms
               WHERE endpoint_id = :endpoint_id AND (expires_at_ms <= :now_ms OR owner = :owner) -- all spaces
               RETURNING space, endpoint_id, token""",
            owner=owner, endpoint_id=endpoint_id, lease_ms=lease_ms,
        )  # fmt: skip
        if row is not None:
            lanes.append(Lane(*row))
    return lanes


@reserved
@operation
def renew(tx: Tx, owner: str, *, lease_ms: int) -> set[str]:
    """Extend the leases of an owner's lanes; answer the endpoints of those that it has."""
    rows = tx.all(
        """WITH mine AS MATERIALIZED (
               SELECT l.space, l.endpoint_id FROM onefold.webhook_lanes l WHERE l.owner = :owner
               ORDER BY l.endpoint_id {for_update})
           UPDATE onefold.webhook_lanes SET expires_at_ms = :now_ms + :lease_ms
           WHERE (endpoint_id, space) IN (SELECT endpoint_id, space FROM mine) AND owner = :owner -- all spaces
           RETURNING endpoint_id""",
        owner=owner, lease_ms=lease_ms,
    )
    return {row[0] for row in rows}


@operation
def release(tx: Tx, lanes: Iterable[Lane]) -> None:
    """Give lanes back; those that were lost meanwhile are left alone."""
    tx.many(
        """UPDATE onefold.webhook_lanes SET owner = '', expires_at_ms = 0
           WHERE space = :lane_space AND endpoint_id = :endpoint_id AND token = :token -- all spaces""",
        [msgspec.structs.asdict(lane) for lane in sorted(lanes, key=lambda lane: lane.endpoint_id)],
    )
    tx.wake("webhooks")


@operation
def due(tx: Tx, wanted: Sequence[tuple[Lane, int]]) -> tuple[int, list[tuple[Endpoint | None, list[Item]]]]:
    """The time, and for each lane its endpoint as it is now (None: gone or disabled) and what is due first."""
    found: list[tuple[Endpoint | None, list[Item]]] = []
    for lane, most in wanted:
        row = tx.one(
            """SELECT id, url, types, headers, concurrency, per_second, key_id, generation, created_at_ms, old_key_id,
                      old_until_ms, failing_since_ms, disabled_at_ms, disabled_why
               FROM onefold.webhook_endpoints WHERE space = :lane_space AND id = :id -- all spaces""",
            lane_space=lane.lane_space, id=lane.endpoint_id,
        )
        endpoint = endpoint_of(row) if row is not None else None
        if endpoint is None or endpoint.disabled_at_ms is not None:
            found.append((None, []))
            continue
        rows = tx.all(
            """SELECT p.message_id, p.attempt, p.failures, (
                   SELECT m.body FROM onefold.webhook_messages m WHERE m.space = p.space AND m.id = p.message_id)
               FROM onefold.webhook_pending p
               WHERE p.space = :lane_space AND p.endpoint_id = :endpoint_id AND p.at_ms <= :now_ms -- all spaces
               ORDER BY p.at_ms, p.message_id LIMIT :most""",
            lane_space=lane.lane_space, endpoint_id=lane.endpoint_id, most=most,
        )
        found.append((endpoint, [Item(*each) for each in rows]))
    return tx.now_ms, found


@operation
def note(tx: Tx, made: Sequence[Made]) -> set[str]:
    """Log attempts, and delete or put off what they were for; answer the endpoints whose lanes were lost.

    Attempts under a lane that was lost leave nothing: its new owner makes them again. Noting twice is noting
    once.
    """
    if len(made) > NOTED_MAX:
        raise Invalid("Too many attempts in one transaction.", count=len(made), most=NOTED_MAX)
    lanes = {(one.lane.endpoint_id, one.lane.token): one.lane for one in made}
    held = {number for number, lane in sorted(lanes.items()) if _holds(tx, lane)}
    mine = [one for one in made if (one.lane.endpoint_id, one.lane.token) in held]
    tx.many(
        """INSERT INTO onefold.webhook_attempts (space, endpoint_id, message_id, attempt, outcome, status, took_ms,
                                                 detail, at_ms)
           VALUES (:lane_space, :endpoint_id, :message_id, :attempt, :outcome, :status, :took_ms, :detail, :now_ms)
           ON CONFLICT (space, endpoint_id, message_id, attempt) DO NOTHING -- all spaces""",
        [{**_key(one), "outcome": one.outcome, "status": one.status, "took_ms": one.took_ms,
          "detail": storable(one.detail, DETAIL_LENGTH_MAX)} for one in mine],
    )  # fmt: skip
    ended: list[Made] = []
    put_off: list[dict[str, Any]] = []
    given_up: list[Made] = []
    for one in mine:
        if one.outcome == "delivered":
            ended.append(one)
        elif (failures := _failures(tx, one)) is not None:
            final = one.final or one.status == GONE
            pause = None if final else pause_ms(failures + 1, one.retry_after_ms, tx.random)
            if pause is None:
                ended.append(one)
                given_up.append(one)
            else:
                put_off.append({**_key(one), "at_ms": tx.now_ms + pause, "failures": failures + 1})
    _leave_pending(tx, ended, put_off)
    _to_failed(tx, given_up)
    for lane in sorted((lanes[number] for number in held), key=lambda lane: lane.endpoint_id):
        _judge(tx, lane, [one for one in mine if one.lane == lane])
    return {lane.endpoint_id for number, lane in lanes.items() if number not in held}


def _holds(tx: Tx, lane: Lane) -> bool:
    """Whether the lane is still the one that attempts were made under; if so, it stays until the commit."""
    row = tx.one(
        """SELECT token FROM onefold.webhook_lanes
           WHERE space = :lane_space AND endpoint_id = :endpoint_id AND token = :token {for_share} -- all spaces""",
        **msgspec.structs.asdict(lane),
    )
    return row is not None


def _failures(tx: Tx, one: Made) -> int | None:
    """How often the delivery had failed before, which a replay may have set back since; None: it was noted already."""
    row = tx.one(
        """SELECT failures FROM onefold.webhook_pending WHERE space = :lane_space AND endpoint_id = :endpoint_id
              AND message_id = :message_id AND attempt = :attempt {for_update} -- all spaces""",
        **_key(one),
    )
    return row[0] if row is not None else None


def _key(one: Made) -> dict[str, Any]:
    return {
        "lane_space": one.lane.lane_space, "endpoint_id": one.lane.endpoint_id, "message_id": one.item.message_id,
        "attempt": one.item.attempt,
    }  # fmt: skip


def _leave_pending(tx: Tx, ended: Sequence[Made], put_off: Sequence[dict[str, Any]]) -> None:
    tx.many(
        """DELETE FROM onefold.webhook_pending WHERE space = :lane_space AND endpoint_id = :endpoint_id
              AND message_id = :message_id AND attempt = :attempt -- all spaces""",
        [_key(one) for one in ended],
    )
    tx.many(
        """UPDATE onefold.webhook_pending SET at_ms = :at_ms, failures = :failures, attempt = attempt + 1
           WHERE space = :lane_space AND endpoint_id = :endpoint_id
             AND message_id = :message_id AND attempt = :attempt -- all spaces""",
        put_off,
    )


def _to_failed(tx: Tx, given_up: Sequence[Made]) -> None:
    rows = [_key(one) for one in given_up]
    for row in rows:
        del row["attempt"]
    tx.many(
        """INSERT INTO onefold.webhook_failed (space, endpoint_id, message_id, failed_at_ms)
           VALUES (:lane_space, :endpoint_id, :message_id, :now_ms)
           ON CONFLICT (space, endpoint_id, message_id) DO NOTHING -- all spaces""",
        rows,
    )
    for one in given_up:
        tx.emit("webhooks.failed", endpoint=one.lane.endpoint_id, message=one.item.message_id, detail=one.detail[:200])


def _judge(tx: Tx, lane: Lane, made: Sequence[Made]) -> None:
    """One success ends a time of failures; days of them, or one answer 410, disable the endpoint."""
    where = {"lane_space": lane.lane_space, "id": lane.endpoint_id}
    gone = any(one.status == GONE for one in made)
    if not gone and any(one.outcome == "delivered" for one in made):
        tx.run(
            """UPDATE onefold.webhook_endpoints SET failing_since_ms = {null:int}
               WHERE space = :lane_space AND id = :id AND failing_since_ms IS NOT NULL -- all spaces""",
            **where,
        )
        return
    row = tx.one(
        """UPDATE onefold.webhook_endpoints SET failing_since_ms = coalesce(failing_since_ms, :now_ms)
           WHERE space = :lane_space AND id = :id -- all spaces
           RETURNING failing_since_ms, disabled_at_ms""",
        **where,
    )
    if row is None or row[1] is not None or not (gone or row[0] <= tx.now_ms - DISABLE_AFTER_MS):
        return
    why = WHY_GONE if gone else WHY_FAILING
    tx.run(
        """UPDATE onefold.webhook_endpoints SET disabled_at_ms = :now_ms, disabled_why = :why
           WHERE space = :lane_space AND id = :id -- all spaces""",
        why=why, **where,
    )  # fmt: skip
    tx.emit("webhooks.disabled", id=lane.endpoint_id, why=why)
