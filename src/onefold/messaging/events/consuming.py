"""Consuming: each event handled once, its effects and the reader's place in one commit.

A subscription is a row that says how far it has come. `consume` locks it, hands the next events to
a handler and moves the place in the same transaction; so a crash undoes both or neither. An event
whose handler keeps failing is parked, with all that follow in its stream; other streams go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from onefold.core.errors import Invalid, Retry, Unknown
from onefold.core.page import LIMIT_DEFAULT, Limit, Page, checked_limit
from onefold.core.said import message_of, storable
from onefold.engine.tx import Tx, operation
from onefold.messaging.events.kinds import kind_of
from onefold.messaging.events.ops import checked_category, read_all, read_category
from onefold.messaging.events.records import Event, event_of_row
from onefold.messaging.events.subscriptions import (
    Place,
    checked_name,
    first_parked,
    forget_retry,
    lock,
    move,
    next_retry,
    same_filter,
    try_lock,
)

ATTEMPTS_MAX = 100
PARKED_MAX = 10_000  # Of one subscription; when they are that many it stops and waits for somebody.
ERROR_LENGTH_MAX = 1_000
BACKOFF_FIRST_MS = 1_000
BACKOFF_MAX_MS = 60_000

_FULL = "Too many events are parked; retry or drop them."
_BEHIND = "It waits behind an earlier event of its stream."

Handler = Callable[[Tx, Event], object]


class Consumed(msgspec.Struct, frozen=True):
    """What one step of a subscription did.

    Attributes:
        handled: events whose effects are in this transaction.
        position: how far the subscription has come.
        more: more events wait right now.
        parked: events put aside in this step.
        retry_in_ms: the next event failed, and is tried again after so many ms; 0: no failure.
        busy: another process is at it; nothing was done.
        error: why the next event failed.
    """

    handled: int
    position: int
    more: bool = False
    parked: int = 0
    retry_in_ms: int = 0
    busy: bool = False
    error: str | None = None


@operation
def consume(
    tx: Tx, subscription: str, handler: Handler, *, category: str | None = None,
    kinds: Sequence[type[msgspec.Struct]] = (), limit: Limit = LIMIT_DEFAULT, attempts_max: int = 5,
) -> Consumed:  # fmt: skip
    """Hand the next events to `handler(tx, event)`; their effects and the new place commit together.

    When the handler raises, the effects of that event are undone, those before it stay; it is tried
    again later (1 s, doubling, at most 60 s), and parked after `attempts_max` failures. A `Retry`
    is not counted: it undoes the whole step and leaves this function. A step that finds parked events which
    are to be tried again (`request_retry`) does that, and nothing else.

    Args:
        tx: a transaction of its own; what else is written in it belongs to the step.
        subscription: 1 to 200 characters; its place begins before the first event.
        handler: a function like every other over tx: it may run again, and does no I/O.
        category: only the streams of this category; fixed when the subscription is made.
        kinds: only events of these kinds; empty for all. Others are passed over.
        limit: how many events to look at, 1 to 1,000.
        attempts_max: 1 to 100.

    Raises:
        Conflict: the subscription was made with another category (code "filter").
        Invalid: an argument is out of range.
    """
    checked_name(subscription)
    if category is not None:
        checked_category(category)
    _checked_attempts(attempts_max)
    checked_limit(limit)
    place = try_lock(tx, subscription, category)
    if place is None:
        return Consumed(0, 0, busy=True)
    same_filter(place, category)
    if place.parked and (stream := next_retry(tx, place.name)) is not None:
        done = _tried_again(tx, place, handler, stream, limit)
        if done.error is not None or not done.more:
            forget_retry(tx, place.name, stream)
        return msgspec.structs.replace(done, more=True)
    if place.retry_at_ms > tx.now_ms:
        return Consumed(0, place.pos, retry_in_ms=place.retry_at_ms - tx.now_ms)
    page = _next(tx, place, limit)
    if not page.items:
        return Consumed(0, place.pos)
    names = {kind_of(cls).name for cls in kinds}
    wanted = [event for event in page.items if not names or event.kind in names]
    behind = _behind(tx, place, wanted)
    end = page.items[-1].position or 0
    room = PARKED_MAX - place.parked
    full = len(behind) > room
    if full:
        end = (behind[room].position or 0) - 1
        behind = behind[:room]
    held = {event.position for event in behind}
    todo = [event for event in wanted if event.position not in held and (event.position or 0) <= end]
    count, error = _handle(tx, todo, handler)
    if error is not None:
        return _failed(tx, place, (todo, count), behind, error, attempts_max)
    for event in behind:
        _park(tx, place.name, event, 0, _BEHIND)
    wait_ms = BACKOFF_MAX_MS if full else 0
    move(tx, place, end, parked=len(behind), retry_at_ms=tx.now_ms + wait_ms if full else 0)
    tx.emit("events.consumed", subscription=subscription, count=count, position=end)
    return Consumed(
        count, end, more=page.after is not None and not full, parked=len(behind), retry_in_ms=wait_ms,
        error=_FULL if full else None,
    )  # fmt: skip


@operation
def fail_next(tx: Tx, subscription: str, *, error: str, attempts_max: int = 5) -> Consumed:
    """Count a failure of the next event that was not the handler's raising, such as its taking too long.

    Raises:
        NotFound: there is no such subscription.
    """
    checked_name(subscription)
    _checked_attempts(attempts_max)
    place = lock(tx, subscription)
    if place.parked and (stream := next_retry(tx, subscription)) is not None:
        # That is what the step was at when it took too long.
        forget_retry(tx, subscription, stream)
        return _blamed(tx, place, first_parked(tx, subscription, stream), _shown(RuntimeError(error)))
    page = _next(tx, place, 1)
    if not page.items:
        return Consumed(0, place.pos)
    return _failed(tx, place, (page.items, 0), [], RuntimeError(error), attempts_max)


@operation
def retry_parked(
    tx: Tx, subscription: str, handler: Handler, *, stream: str | None = None, limit: Limit = LIMIT_DEFAULT
) -> Consumed:
    """Hand parked events to `handler`, oldest first; those that succeed are no longer parked.

    An event that fails again stays, and so do those behind it in its stream.

    Args:
        tx: a transaction of its own.
        subscription: whose dead letters.
        handler: as for `consume`.
        stream: only those of this stream.
        limit: how many events at most, 1 to 1,000.

    Raises:
        NotFound: there is no such subscription.
    """
    return _tried_again(tx, lock(tx, checked_name(subscription)), handler, stream, checked_limit(limit))


def _tried_again(tx: Tx, place: Place, handler: Handler, stream: str | None, limit: int) -> Consumed:
    """Hand parked events to the handler again, the subscription's row being locked."""
    rows = tx.all(
        """SELECT e.stream, e.version, e.kind, e.kind_version, e.data, e.at_ms, e.causation, e.correlation, e.pos
           FROM onefold.event_parked AS d JOIN onefold.event_log AS e ON e.space = d.space AND e.pos = d.pos
           WHERE d.space = :space AND d.subscription = :name AND (:every = 1 OR d.stream = :stream)
           ORDER BY d.pos LIMIT :most""",
        name=place.name, every=int(stream is None), stream=stream or "", most=limit,
    )  # fmt: skip
    stuck: set[str] = set()
    handled = 0
    why: str | None = None
    for event in (event_of_row(row[:-1], row[-1]) for row in rows):
        if event.stream in stuck:
            continue
        _, error = _handle(tx, [event], handler)
        if error is None:
            _unpark(tx, place.name, event)
            handled += 1
        else:
            stuck.add(event.stream)
            why = _shown(error)
            _blamed(tx, place, event.position, why)
    if handled == place.parked:
        forget_retry(tx, place.name, None)
    move(tx, place, place.pos, parked=-handled, attempts=place.attempts, retry_at_ms=place.retry_at_ms)
    return Consumed(handled, place.pos, more=len(rows) == limit, error=why)


def _blamed(tx: Tx, place: Place, position: int | None, why: str) -> Consumed:
    """A parked event failed once more, and stays."""
    tx.run(
        """UPDATE onefold.event_parked SET attempts = attempts + 1, error = :error, at_ms = :now_ms
           WHERE space = :space AND subscription = :name AND pos = :pos""",
        name=place.name, pos=position or 0, error=why,
    )  # fmt: skip
    return Consumed(0, place.pos, more=True, error=why)


def _next(tx: Tx, place: Place, limit: int) -> Page[Event]:
    if place.category is None:
        return read_all(tx, after=place.pos, limit=limit)
    return read_category(tx, place.category, after=place.pos, limit=limit)


def _handle(tx: Tx, events: Sequence[Event], handler: Handler) -> tuple[int, Exception | None]:
    """Hand events to the handler until one fails; answer how many did not, and the error.

    First all in one savepoint. Only when one fails they go one by one: on PostgreSQL the error of
    a write may show some statements later, and the wrong event would be blamed.
    """
    try:
        with tx.savepoint():
            for event in events:
                handler(tx, event)
    except (Retry, Unknown):
        raise  # No fault of the event's: the step is undone and comes again.
    except Exception as error:
        if len(events) == 1:
            return 0, error
    else:
        return len(events), None
    for count, event in enumerate(events):
        _, error = _handle(tx, [event], handler)
        if error is not None:
            return count, error
    return len(events), None


def _failed(
    tx: Tx, place: Place, tried: tuple[Sequence[Event], int], behind: Sequence[Event], error: Exception,
    attempts_max: int,
) -> Consumed:  # fmt: skip
    """Stop before the event that failed, or park it when it failed often enough."""
    events, count = tried
    culprit = events[count]
    assert culprit.position is not None
    first = min(event.position or 0 for event in events)
    attempts = place.attempts + 1 if culprit.position == first else 1
    passed = [event for event in behind if (event.position or 0) < culprit.position]
    for event in passed:
        _park(tx, place.name, event, 0, _BEHIND)
    why = _shown(error)
    if attempts >= attempts_max and place.parked + len(passed) < PARKED_MAX:
        _park(tx, place.name, culprit, attempts, why)
        move(tx, place, culprit.position, parked=len(passed) + 1)
        tx.emit("events.parked", subscription=place.name, event=culprit.id, error=why)
        return Consumed(count, culprit.position, more=True, parked=len(passed) + 1, error=why)
    wait_ms = min(BACKOFF_FIRST_MS << min(attempts - 1, 16), BACKOFF_MAX_MS)
    at = culprit.position - 1
    move(tx, place, at, parked=len(passed), attempts=min(attempts, ATTEMPTS_MAX), retry_at_ms=tx.now_ms + wait_ms)
    tx.emit("events.failed", subscription=place.name, event=culprit.id, attempts=attempts, error=why)
    return Consumed(count, at, parked=len(passed), retry_in_ms=wait_ms, error=why)


def _behind(tx: Tx, place: Place, events: Sequence[Event]) -> list[Event]:
    """Those of `events` whose stream has a parked one."""
    if place.parked == 0:
        return []
    streams = {
        stream: tx.one(
            """SELECT 1 FROM onefold.event_parked
               WHERE space = :space AND subscription = :name AND stream = :stream LIMIT 1""",
            name=place.name, stream=stream,
        ) for stream in sorted({event.stream for event in events})
    }  # fmt: skip
    return [event for event in events if streams[event.stream]]


def _park(tx: Tx, name: str, event: Event, attempts: int, error: str) -> None:
    tx.run(
        """INSERT INTO onefold.event_parked (space, subscription, pos, stream, attempts, error, at_ms)
           VALUES (:space, :name, :pos, :stream, :attempts, :error, :now_ms)""",
        name=name, pos=event.position, stream=event.stream, attempts=attempts, error=error,
    )  # fmt: skip


def _unpark(tx: Tx, name: str, event: Event) -> None:
    tx.run(
        "DELETE FROM onefold.event_parked WHERE space = :space AND subscription = :name AND pos = :pos",
        name=name, pos=event.position,
    )  # fmt: skip


def _shown(error: Exception) -> str:
    return storable(message_of(error), ERROR_LENGTH_MAX)


def _checked_attempts(attempts_max: int) -> None:
    if type(attempts_max) is not int or not 1 <= attempts_max <= ATTEMPTS_MAX:
        raise Invalid("attempts_max is out of range.", code="attempts", most=ATTEMPTS_MAX)
