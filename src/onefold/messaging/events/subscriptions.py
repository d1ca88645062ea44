"""Subscriptions as rows: how far each has come, and what it has put aside. See `consuming.py`."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec

from onefold.core.errors import Conflict, Invalid, NotFound
from onefold.core.limits import text
from onefold.core.page import LIMIT_DEFAULT, Limit, Page, checked_limit, page_of
from onefold.engine.tx import Tx, operation
from onefold.messaging.events.ops import (
    VERSION_MAX,
    After,
    Category,
    Stream,
    StreamCursor,
    Version,
    category_of,
    checked_category,
    place_of,
)

NAME_LENGTH_MAX = 200

Name = Annotated[str, text(1, NAME_LENGTH_MAX)]
NameCursor = Annotated[str, text(0, NAME_LENGTH_MAX)]


class Subscription(msgspec.Struct, frozen=True):
    """A subscription as it stands. `lag` counts positions to the last one that concerns it."""

    name: str
    category: str | None
    position: int
    lag: int
    attempts: int
    retry_at_ms: int
    parked: int


class Parked(msgspec.Struct, frozen=True):
    """A dead letter: an event that failed too often, or (attempts 0) waits behind one that did."""

    position: int
    stream: str
    attempts: int
    error: str
    at_ms: int


class Retrying(msgspec.Struct, frozen=True):
    """A stream whose parked events somebody asked to try again, and when."""

    stream: str
    asked_at_ms: int


class Stuck(msgspec.Struct, frozen=True):
    """A subscription with dead letters, and where it is."""

    space_name: str
    name: str
    parked: int


class Place(NamedTuple):
    """The locked row."""

    name: str
    category: str | None
    pos: int
    attempts: int
    retry_at_ms: int
    parked: int


@operation
def subscribe(tx: Tx, name: Name, *, category: Category | None = None, after: Version = 0) -> bool:
    """Make the subscription `name`, to start after position `after`; False when it exists already.

    `consume` makes it by itself, starting with the first event; call this to start elsewhere
    (`after=events.head(tx)`: with the next one).

    Raises:
        Conflict: it exists with another category.
        Invalid: an argument is out of range.
    """
    checked_name(name)
    if category is not None:
        checked_category(category)
    if type(after) is not int or not 0 <= after <= VERSION_MAX:
        raise Invalid("after is out of range.", code="after", most=VERSION_MAX)
    if create(tx, name, category, after):
        return True
    same_filter(lock(tx, name), category)
    return False


@operation
def remove_subscription(tx: Tx, name: Name) -> None:
    """Forget the subscription and its parked events. One made anew starts from the beginning.

    Raises:
        NotFound: there is none of this name.
    """
    lock(tx, checked_name(name))
    tx.run("DELETE FROM onefold.event_parked WHERE space = :space AND subscription = :name", name=name)
    tx.run("DELETE FROM onefold.event_retries WHERE space = :space AND subscription = :name", name=name)
    tx.run("DELETE FROM onefold.event_subscriptions WHERE space = :space AND name = :name", name=name)


@operation
def subscription_of(tx: Tx, name: Name) -> Subscription:
    """The subscription as it stands.

    Raises:
        NotFound: there is none of this name.
    """
    found = try_subscription_of(tx, name)
    if found is None:
        raise NotFound("There is no such subscription.", subscription=name)
    return found


@operation
def try_subscription_of(tx: Tx, name: str) -> Subscription | None:
    """The subscription as it stands, or None when there is none of this name."""
    row = tx.one(
        """SELECT s.name, s.category, s.pos,
                  CASE WHEN s.category IS NULL
                       THEN (SELECT e.pos FROM onefold.event_log AS e WHERE e.space = :space
                             ORDER BY e.pos DESC LIMIT 1)
                       ELSE (SELECT e.pos FROM onefold.event_log AS e WHERE e.space = :space AND e.category = s.category
                             ORDER BY e.pos DESC LIMIT 1) END,
                  s.attempts, s.retry_at_ms, s.parked
           FROM onefold.event_subscriptions AS s WHERE s.space = :space AND s.name = :name""",
        name=checked_name(name),
    )  # fmt: skip
    return _subscription(*row) if row else None


@operation
def list_subscriptions(tx: Tx, *, after: NameCursor | None = None, limit: Limit = LIMIT_DEFAULT) -> Page[Subscription]:
    """The subscriptions by name, after the name `after`."""
    rows = tx.all(
        """SELECT s.name, s.category, s.pos,
                  CASE WHEN s.category IS NULL
                       THEN (SELECT e.pos FROM onefold.event_log AS e WHERE e.space = :space
                             ORDER BY e.pos DESC LIMIT 1)
                       ELSE (SELECT e.pos FROM onefold.event_log AS e WHERE e.space = :space AND e.category = s.category
                             ORDER BY e.pos DESC LIMIT 1) END,
                  s.attempts, s.retry_at_ms, s.parked
           FROM onefold.event_subscriptions AS s WHERE s.space = :space AND s.name > :after
           ORDER BY s.name LIMIT :most""",
        after=checked_name(after) if after else "", most=checked_limit(limit) + 1,
    )  # fmt: skip
    return page_of([_subscription(*row) for row in rows], limit, lambda item: item.name)


@operation
def stuck(tx: Tx, *, limit: Limit = LIMIT_DEFAULT) -> list[Stuck]:
    """Subscriptions of any space that have parked events, at most `limit` (1,000)."""
    rows = tx.all(
        """SELECT (SELECT n.name FROM onefold.spaces AS n WHERE n.space = s.space), s.name, s.parked
           FROM onefold.event_subscriptions AS s WHERE s.space >= 0 AND s.parked > 0
           ORDER BY s.space, s.name LIMIT :most -- all spaces""",
        most=checked_limit(limit),
    )  # fmt: skip
    return [Stuck(row[0] or "", row[1], row[2]) for row in rows]


@operation
def list_parked(tx: Tx, subscription: Name, *, after: After = 0, limit: Limit = LIMIT_DEFAULT) -> Page[Parked]:
    """The dead letters of a subscription by position, after position `after`."""
    rows = tx.all(
        """SELECT pos, stream, attempts, error, at_ms FROM onefold.event_parked
           WHERE space = :space AND subscription = :name AND pos > :after ORDER BY pos LIMIT :most""",
        name=checked_name(subscription), after=place_of(after), most=checked_limit(limit) + 1,
    )  # fmt: skip
    return page_of([Parked(*row) for row in rows], limit, lambda item: str(item.position))


@operation
def drop_parked(tx: Tx, subscription: Name, *, stream: Stream) -> int:
    """Give up all parked events of one stream, so that the stream goes on; answer how many.

    Raises:
        NotFound: there is no such subscription.
    """
    category_of(stream)
    place = lock(tx, checked_name(subscription))
    rows = tx.all(
        """DELETE FROM onefold.event_parked
           WHERE space = :space AND subscription = :name AND stream = :stream RETURNING pos""",
        name=subscription, stream=stream,
    )  # fmt: skip
    forget_retry(tx, subscription, stream)
    move(tx, place, place.pos, parked=-len(rows), attempts=place.attempts, retry_at_ms=place.retry_at_ms)
    return len(rows)


@operation
def request_retry(tx: Tx, subscription: Name, *, stream: Stream | None = None) -> int:
    """Have the subscription try its parked events again, in its next steps; answer of how many streams.

    Whoever runs it tries them, oldest first; those of a stream end with the first that fails again. Asking
    twice is asking once. Nothing happens while nobody runs the subscription: `retry_parked` does it at once,
    with a handler at hand.

    Args:
        subscription: whose dead letters.
        stream: only those of this stream; None asks for all.

    Raises:
        NotFound: there is no such subscription.
        Invalid: an argument is out of range.
    """
    if stream is not None:
        category_of(stream)
    lock(tx, checked_name(subscription))
    rows = tx.all(
        """INSERT INTO onefold.event_retries (space, subscription, stream, asked_at_ms)
           SELECT DISTINCT p.space, p.subscription, p.stream, :now_ms FROM onefold.event_parked AS p
           WHERE p.space = :space AND p.subscription = :name AND (:every = 1 OR p.stream = :stream)
           ON CONFLICT (space, subscription, stream) DO UPDATE SET asked_at_ms = excluded.asked_at_ms
           RETURNING stream""",
        name=subscription, every=int(stream is None), stream=stream or "",
    )  # fmt: skip
    if rows:
        tx.wake("events")
    return len(rows)


@operation
def list_retries(
    tx: Tx, subscription: Name, *, after: StreamCursor | None = None, limit: Limit = LIMIT_DEFAULT
) -> Page[Retrying]:
    """The streams whose parked events wait to be tried again, by name, after the stream `after`."""
    if after:
        category_of(after)
    rows = tx.all(
        """SELECT stream, asked_at_ms FROM onefold.event_retries
           WHERE space = :space AND subscription = :name AND stream > :after ORDER BY stream LIMIT :most""",
        name=checked_name(subscription), after=after or "", most=checked_limit(limit) + 1,
    )  # fmt: skip
    return page_of([Retrying(*row) for row in rows], limit, lambda item: item.stream)


def checked_name(name: str) -> str:
    """`name` itself; Invalid when it is out of range."""
    if not 1 <= len(name) <= NAME_LENGTH_MAX or "\0" in name:
        raise Invalid("A subscription's name has 1 to 200 characters and no NUL.", code="name", length=len(name))
    return name


def create(tx: Tx, name: str, category: str | None, after: int) -> bool:
    """Make the row, unless there is one."""
    row = tx.one(
        """INSERT INTO onefold.event_subscriptions (space, name, category, pos, attempts, retry_at_ms, parked)
           VALUES (:space, :name, :category, :after, 0, 0, 0)
           ON CONFLICT (space, name) DO NOTHING RETURNING pos""",
        name=name, category=category, after=after,
    )  # fmt: skip
    return row is not None


def lock(tx: Tx, name: str) -> Place:
    """The row, locked until the transaction ends; NotFound when there is none."""
    row = tx.one(
        """SELECT name, category, pos, attempts, retry_at_ms, parked FROM onefold.event_subscriptions
           WHERE space = :space AND name = :name {for_update}""",
        name=name,
    )
    if row is None:
        raise NotFound("There is no such subscription.", subscription=name)
    return Place(*row)


def try_lock(tx: Tx, name: str, category: str | None) -> Place | None:
    """The row, locked, and made if there was none; None while somebody else has it."""
    row = tx.one(
        """SELECT name, category, pos, attempts, retry_at_ms, parked FROM onefold.event_subscriptions
           WHERE space = :space AND name = :name {for_update} {skip_locked}""",
        name=name,
    )
    if row is not None:
        return Place(*row)
    return Place(name, category, 0, 0, 0, 0) if create(tx, name, category, 0) else None


def same_filter(place: Place, category: str | None) -> None:
    """Refuse another category than the subscription was made with: its place would mean nothing."""
    if place.category != category:
        raise Conflict(
            "The subscription was made with another category.", code="filter",
            subscription=place.name, category=place.category,
        )  # fmt: skip


def next_retry(tx: Tx, name: str) -> str | None:
    """The stream whose parked events are to be tried next, if somebody asked."""
    row = tx.one(
        """SELECT stream FROM onefold.event_retries WHERE space = :space AND subscription = :name
           ORDER BY stream LIMIT 1""",
        name=name,
    )
    return row[0] if row else None


def first_parked(tx: Tx, name: str, stream: str) -> int | None:
    """The position of the first parked event of a stream."""
    row = tx.one(
        """SELECT pos FROM onefold.event_parked
           WHERE space = :space AND subscription = :name AND stream = :stream ORDER BY pos LIMIT 1""",
        name=name, stream=stream,
    )  # fmt: skip
    return row[0] if row else None


def forget_retry(tx: Tx, name: str, stream: str | None) -> None:
    """What was asked for is done, or came to nothing: of one stream, or of all."""
    tx.run(
        """DELETE FROM onefold.event_retries
           WHERE space = :space AND subscription = :name AND (:every = 1 OR stream = :stream)""",
        name=name, every=int(stream is None), stream=stream or "",
    )  # fmt: skip


def move(tx: Tx, place: Place, pos: int, *, parked: int = 0, attempts: int = 0, retry_at_ms: int = 0) -> None:
    """Write the locked row anew; `parked` is how many more there are."""
    tx.run(
        """UPDATE onefold.event_subscriptions
           SET pos = :pos, attempts = :attempts, retry_at_ms = :retry_at_ms, parked = :parked
           WHERE space = :space AND name = :name""",
        name=place.name, pos=pos, attempts=attempts, retry_at_ms=retry_at_ms, parked=place.parked + parked,
    )  # fmt: skip
    if pos != place.pos:
        tx.wake("events.consumed")


def _subscription(
    name: str, category: str | None, pos: int, last: int | None, attempts: int, retry_at_ms: int, parked: int
) -> Subscription:
    return Subscription(name, category, pos, max(0, (last or 0) - pos), attempts, retry_at_ms, parked)
