"""What the block answers: events as stored, and what an append did."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from onefold.core.errors import Invalid
from onefold.engine.tx import Row
from onefold.messaging.events.kinds import KindName, KindVersion, kind_of, open_data

S = TypeVar("S", bound=msgspec.Struct)

#: The columns that `event_of_row` takes, in its order, of a table called onefold.events.
COLUMNS = "stream, version, kind, kind_version, data, at_ms, causation, correlation"


class Event(msgspec.Struct, frozen=True):
    """One event.

    Attributes:
        id: "order/7@3": its stream and version. Never used twice.
        stream: where it belongs.
        version: its place in the stream, from 1.
        kind: the durable name of its type.
        kind_version: of the shape of `data`.
        data: JSON as stored; `open` makes a record of it.
        at_ms: when the appending transaction ran. Order is by version and position, not by this.
        causation: the id of what brought it about, such as another event, a job or a request.
        correlation: the id of the first cause of the whole chain.
        position: its place among all events of the space, from 1 without gaps; None where the
            reader did not ask by position (`read_stream`), because it may not have one yet.
    """

    id: str
    stream: str
    version: int
    kind: str
    kind_version: int
    data: msgspec.Raw
    at_ms: int
    causation: str | None = None
    correlation: str | None = None
    position: int | None = None

    def open(self, *kinds: type[S]) -> S:
        """The data as a record of whichever of `kinds` it is.

        Raises:
            Invalid: it is of none of them (code "kind"), or its data does not fit.
        """
        for cls in kinds:
            if kind_of(cls).name == self.kind:
                return open_data(bytes(self.data), (self.kind, self.kind_version), cls)
        raise Invalid("The event is of another kind.", code="kind", kind=self.kind)

    def match(self, *kinds: type[msgspec.Struct]) -> bool:
        """Whether it is of one of `kinds`."""
        return any(kind_of(cls).name == self.kind for cls in kinds)


class NewEvent(msgspec.Struct, frozen=True):
    """An event to append whose type this program does not have; for HTTP and imports."""

    kind: KindName
    data: dict[str, Any]
    kind_version: KindVersion = 1


class Appended(msgspec.Struct, frozen=True):
    """What `append` did: the ids of the new events in order, and the stream's version after them.

    There is no position in it: on PostgreSQL events get theirs when they are committed.
    """

    ids: tuple[str, ...]
    version: int

    @property
    def id(self) -> str:
        """The id of the last one; what to wait for to have all of them."""
        return self.ids[-1]


def id_of(stream: str, version: int) -> str:
    """The id of an event."""
    return f"{stream}@{version}"


def event_of_row(row: Row, position: int | None = None) -> Event:
    """An `Event` from the columns `COLUMNS`."""
    stream, version, kind, kind_version, data, at_ms, causation, correlation = row
    return Event(
        id_of(stream, version), stream, version, kind, kind_version, msgspec.Raw(data.encode()), at_ms,
        causation, correlation, position,
    )  # fmt: skip
