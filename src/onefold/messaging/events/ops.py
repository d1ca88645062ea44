"""Events: facts in streams, each stream in order, and all of them in one order without gaps.

`append` writes to a stream in the transaction that makes the fact true. A stream's versions
count from 1; `expected` says which version the caller decided upon, and another writer's append in
between is a Conflict. Readers by category, or of everything, go by *position*: whoever has read up
to a position has missed nothing before it. SQLite numbers at append, where commits stand in one
line anyway (`writing.py`); on PostgreSQL the sequencer numbers what has committed (`sequencer.py`).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec

from onefold.core.codec import encode
from onefold.core.errors import Conflict, Invalid, NotFound
from onefold.core.limits import many, shaped, text, whole
from onefold.core.page import LIMIT_DEFAULT, Limit, Page, checked_limit, page_of
from onefold.engine.tx import Tx, operation
from onefold.messaging.events.kinds import checked_kind, kind_of
from onefold.messaging.events.records import Appended, Event, NewEvent, event_of_row, id_of
from onefold.messaging.events.writing import append_postgres, append_sqlite, last_version_sqlite

STREAM_LENGTH_MAX = 200
CAUSE_LENGTH_MAX = 250
EVENTS_MAX = 1_000  # In one append.
PLACE_DIGITS_MAX = 15  # Of a version or position; JSON readers keep no more of a whole number for sure.
VERSION_MAX = 10**PLACE_DIGITS_MAX - 1

_PLACE = re.compile(rf"[0-9]{{1,{PLACE_DIGITS_MAX}}}")
_ID = re.compile(rf"([^\u0000]{{1,{STREAM_LENGTH_MAX}}})@({_PLACE.pattern})")
Stream = Annotated[str, text(1, STREAM_LENGTH_MAX)]
StreamCursor = Annotated[str, text(0, STREAM_LENGTH_MAX)]
Category = Annotated[str, text(0, STREAM_LENGTH_MAX, r"^[^/\u0000]*$")]
Cause = Annotated[str, text(1, CAUSE_LENGTH_MAX)]
EventId = Annotated[str, shaped(_ID)]
Version = Annotated[int, whole(0, VERSION_MAX)]  #: Or position.
After = Version | Annotated[str, shaped(_PLACE)]  #: As `Page.after` has it.
Expected = Version | Literal["absent", "any"] | None


@operation
def append(
    tx: Tx, stream: Stream, /, *events: msgspec.Struct, expected: Expected = None,
    causation: str | Event | None = None, correlation: str | None = None,
) -> Appended:  # fmt: skip
    """Append one or more events to `stream`, in this order, all or none.

    Args:
        tx: the transaction that makes the facts true.
        stream: 1 to 200 characters; up to the first "/" it is the category ("order/7").
        events: 1 to 1,000 records of classes marked with `kind`, or `NewEvent`.
        expected: the version that the stream must have: a number, "absent" (or 0) for a stream
            that must not exist yet, None or "any" for no matter which.
        causation: the id of what brought this about; an `Event` gives its correlation too.
        correlation: the id of the first cause of the chain.

    Raises:
        Conflict: code "version", the stream is not at `expected`; facts say where it is.
        Invalid: an argument is out of range; nothing was written.
    """
    if not 1 <= len(events) <= EVENTS_MAX:
        raise Invalid("An append has 1 to 1,000 events.", events=len(events), most=EVENTS_MAX)
    category = category_of(stream)
    causation, correlation = _causes(causation, correlation)
    rows = [_row(event, stream, category, causation, correlation) for event in events]
    write = append_sqlite if tx.dialect == "sqlite" else append_postgres
    version = write(tx, stream, rows, _expected(expected))
    if version is None:
        raise Conflict(
            "The stream is not at the expected version.", code="version",
            stream=stream, expected=expected, actual=version_of(tx, stream),
        )  # fmt: skip
    first = version - len(rows)
    tx.emit("events.appended", stream=stream, version=version, count=len(rows))
    return Appended(tuple(id_of(stream, number) for number in range(first + 1, version + 1)), version)


@operation
def append_json(
    tx: Tx, stream: Stream, events: Annotated[list[NewEvent], many(1, EVENTS_MAX)], *, expected: Expected = None,
    causation: Cause | None = None, correlation: Cause | None = None,
) -> Appended:  # fmt: skip
    """`append` for callers that have no classes: `events` are kinds and JSON objects."""
    return append(tx, stream, *events, expected=expected, causation=causation, correlation=correlation)


@operation
def read_stream(tx: Tx, stream: Stream, *, after: After = 0, limit: Limit = LIMIT_DEFAULT) -> Page[Event]:
    """The events of `stream` after version `after`, oldest first, this transaction's own included.

    A stream that does not exist has none. `Page.after` is the version to go on after.
    """
    category_of(stream)
    rows = tx.all(
        """SELECT stream, version, kind, kind_version, data, at_ms, causation, correlation FROM onefold.events
           WHERE space = :space AND stream = :stream AND version > :after ORDER BY version LIMIT :most""",
        stream=stream, after=place_of(after), most=checked_limit(limit) + 1,
    )  # fmt: skip
    return page_of([event_of_row(row) for row in rows], limit, lambda event: str(event.version))


@operation
def read_category(tx: Tx, category: Category, *, after: After = 0, limit: Limit = LIMIT_DEFAULT) -> Page[Event]:
    """The events of all streams of `category` after position `after`, by position."""
    # Written as a range: with "=" the primary key would do for the order as well, and for a rare
    # category a planner might choose to read through all the others.
    rows = tx.all(
        """SELECT stream, version, kind, kind_version, data, at_ms, causation, correlation, pos FROM onefold.event_log
           WHERE space = :space AND (category, pos) > (:category, :after) AND category <= :category
           ORDER BY category, pos LIMIT :most""",
        category=checked_category(category), after=place_of(after), most=checked_limit(limit) + 1,
    )  # fmt: skip
    return _page(rows, limit)


@operation
def read_all(tx: Tx, *, after: After = 0, limit: Limit = LIMIT_DEFAULT) -> Page[Event]:
    """All events of the space after position `after`, by position.

    On PostgreSQL an event appears here a moment after its commit, when it has been numbered;
    once a position was seen, nothing will ever appear before it.
    """
    rows = tx.all(
        """SELECT stream, version, kind, kind_version, data, at_ms, causation, correlation, pos FROM onefold.event_log
           WHERE space = :space AND pos > :after ORDER BY pos LIMIT :most""",
        after=place_of(after), most=checked_limit(limit) + 1,
    )  # fmt: skip
    return _page(rows, limit)


@operation
def read_correlation(tx: Tx, correlation: Cause, *, limit: Limit = LIMIT_DEFAULT) -> list[Event]:
    """The events of one chain, as they were written, at most `limit` (1,000)."""
    checked_cause(correlation)
    rows = tx.all(
        """SELECT stream, version, kind, kind_version, data, at_ms, causation, correlation FROM onefold.events
           WHERE space = :space AND (correlation, seq) > (:correlation, 0) AND correlation <= :correlation
           ORDER BY correlation, seq LIMIT :most""",
        correlation=correlation, most=checked_limit(limit),
    )  # fmt: skip
    return [event_of_row(row) for row in rows]


@operation
def version_of(tx: Tx, stream: Stream) -> int:
    """The version of `stream`, 0 when it does not exist. To decide upon it, pass it as `expected`."""
    category_of(stream)
    if tx.dialect == "sqlite":
        return last_version_sqlite(tx, stream)
    # This row is not among those that others insert, so reading it gets in nobody's way.
    row = tx.one("SELECT version FROM onefold.event_streams WHERE space = :space AND stream = :stream", stream=stream)
    return int(row[0]) if row else 0


@operation
def head(tx: Tx) -> int:
    """The last position of the space, 0 when there is none."""
    row = tx.one("SELECT pos FROM onefold.event_log WHERE space = :space ORDER BY pos DESC LIMIT 1")
    return int(row[0]) if row else 0


@operation
def position_of(tx: Tx, event_id: EventId) -> int | None:
    """The position of an event, or None while it waits for the sequencer.

    Raises:
        NotFound: there is no such event, or it is not committed.
        Invalid: this cannot be the id of an event.
    """
    stream, version = parse_id(event_id)
    if tx.dialect == "sqlite":
        row = tx.one(
            "SELECT seq FROM onefold.events WHERE space = :space AND stream = :stream AND version = :version",
            stream=stream, version=version,
        )  # fmt: skip
    else:
        row = tx.one(
            """SELECT (SELECT p.pos FROM onefold.event_positions AS p WHERE p.seq = e.seq) FROM onefold.events AS e
               WHERE e.space = :space AND e.stream = :stream AND e.version = :version""",
            stream=stream, version=version,
        )  # fmt: skip
    if row is None:
        raise NotFound("There is no such event.", event=event_id)
    return None if row[0] is None else int(row[0])


def parse_id(event_id: str) -> tuple[str, int]:
    """Stream and version of an id; Invalid when it cannot be one."""
    parts = _ID.fullmatch(event_id)
    if parts is None:
        raise Invalid("The id of an event is its stream, @ and its version.", code="id")
    return parts[1], int(parts[2])


def category_of(stream: str) -> str:
    """The category of a stream; Invalid when the name of the stream is out of range."""
    if not 1 <= len(stream) <= STREAM_LENGTH_MAX or "\0" in stream:
        raise Invalid("A stream's name has 1 to 200 characters and no NUL.", code="stream", length=len(stream))
    return stream.partition("/")[0]


def checked_category(category: str) -> str:
    """`category` itself; Invalid when no stream can be of it."""
    if len(category) > STREAM_LENGTH_MAX or "/" in category or "\0" in category:
        raise Invalid("A category has at most 200 characters, no slash and no NUL.", code="category")
    return category


def _row(
    event: msgspec.Struct, stream: str, category: str, causation: str | None, correlation: str | None
) -> dict[str, Any]:
    """What one event puts into the columns."""
    if isinstance(event, NewEvent):
        name, version, data = event.kind, event.kind_version, encode(event.data, what=event.kind)
        checked_kind(name, version)
    else:
        name, version, _ = kind_of(type(event))
        data = encode(event, what=name)
    return {
        "stream": stream, "category": category, "kind": name, "kind_version": version, "data": data,
        "causation": causation, "correlation": correlation,
    }  # fmt: skip


def _causes(causation: str | Event | None, correlation: str | None) -> tuple[str | None, str | None]:
    if isinstance(causation, Event):
        correlation = correlation or causation.correlation or causation.id
        causation = causation.id
    for cause in (causation, correlation):
        if cause is not None:
            checked_cause(cause)
    return causation, correlation


def checked_cause(cause: str) -> None:
    """Refuse an id of a cause that cannot be stored."""
    if not 1 <= len(cause) <= CAUSE_LENGTH_MAX or "\0" in cause:
        raise Invalid("The id of a cause has 1 to 250 characters and no NUL.", code="cause", length=len(cause))


def _expected(expected: Expected) -> int | None:
    if expected is None or expected == "any":
        return None
    if expected == "absent":
        return 0
    if type(expected) is not int or not 0 <= expected <= VERSION_MAX:
        raise Invalid('expected is a version, "absent", "any" or None.', code="expected", most=VERSION_MAX)
    return expected


def place_of(after: int | str) -> int:
    """`after` as a number; Invalid when it is no version or position."""
    if isinstance(after, str):
        if not _PLACE.fullmatch(after):
            raise Invalid("after is a version or position.", code="after")
        after = int(after)
    if type(after) is not int or not 0 <= after <= VERSION_MAX:
        raise Invalid("after is out of range.", code="after", most=VERSION_MAX)
    return after


def _page(rows: list[Any], limit: int) -> Page[Event]:
    return page_of([event_of_row(row[:-1], row[-1]) for row in rows], limit, lambda event: str(event.position))
