"""Kinds and small steps that the tests of events share."""

from __future__ import annotations

import msgspec

from onefold import Database, Handle, Tx, events


@events.kind("order.placed")
class Placed(msgspec.Struct, frozen=True):
    n: int = 1
    saw: int = 0


@events.kind("order.paid")
class Paid(msgspec.Struct, frozen=True):
    cents: int


def number(db: Database) -> int:
    """Run the sequencer by hand until nothing is left; answer the steps. SQLite needs none."""
    steps = 0
    while db.options(isolation="repeatable_read").run(events.sequence):
        steps += 1
        assert steps < 10_000
    return steps + 1


def everything(db: Handle) -> list[events.Event]:
    """All events of the space, page by page."""
    found: list[events.Event] = []
    after = 0
    while True:
        page = db.reader().run(events.read_all, after=after, limit=1_000)
        found += page.items
        if page.after is None:
            return found
        after = int(page.after)


def check_order(found: list[events.Event]) -> None:
    """Positions count without gaps; each stream's versions come 1, 2, 3."""
    assert [event.position for event in found] == list(range(1, len(found) + 1))
    versions: dict[str, int] = {}
    for event in found:
        assert event.version == versions.get(event.stream, 0) + 1, event.id
        versions[event.stream] = event.version


def place(tx: Tx, stream: str, *ns: int) -> events.Appended:
    return events.append(tx, stream, *(Placed(n) for n in ns or (1,)))
