"""Any sequence of appends, steps of the sequencer and consumes, against lists."""

from __future__ import annotations

import itertools
from typing import Any

from events_kinds import Placed, check_order, number
from hypothesis import given, settings
from hypothesis import strategies as st

from onefold import Conflict, Database, Handle, Tx, events

_spaces = itertools.count(1)

STREAMS = st.sampled_from(["order/a", "order/b", "mail/a", "x"])
ACTIONS = st.one_of(
    st.tuples(st.just("append"), STREAMS, st.integers(1, 4), st.sampled_from([None, "any", "absent", 0, 1, 2, 3, "right"])),
    st.tuples(st.just("undone"), STREAMS, st.integers(1, 3)),
    st.tuples(st.just("number")),
    st.tuples(st.just("consume"), st.sampled_from([None, "order"]), st.integers(1, 5)),
    st.tuples(st.just("read"), STREAMS, st.integers(0, 6), st.integers(1, 4)),
)


class Model:
    """The truth in lists: streams, what has a position, what each subscription has seen."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.handle: Handle = db.at(f"model/{next(_spaces)}")
        self.streams: dict[str, list[str]] = {}
        self.written: list[str] = []
        self.numbered: list[str] = []
        self.places: dict[str | None, int] = {}
        self.handled: dict[str | None, list[str]] = {}

    def append(self, stream: str, count: int, expected: Any) -> None:
        have = len(self.streams.get(stream, []))
        if expected == "right":
            expected = have
        wanted = {None: have, "any": have, "absent": 0}.get(expected, expected)
        try:
            done = self.handle.run(lambda tx: events.append(tx, stream, *[Placed(n) for n in range(count)], expected=expected))
        except Conflict as error:
            assert error.code == "version"
            assert wanted != have
            return
        assert wanted == have
        ids = [f"{stream}@{have + n + 1}" for n in range(count)]
        assert list(done.ids) == ids
        self.streams.setdefault(stream, []).extend(ids)
        self.written += ids
        if self.db.dialect == "sqlite":
            self.numbered += ids

    def undone(self, stream: str, count: int) -> None:
        def fail(tx: Tx) -> None:
            events.append(tx, stream, *[Placed(n) for n in range(count)])
            raise ZeroDivisionError

        try:
            self.handle.run(fail)
        except ZeroDivisionError:
            return
        raise AssertionError

    def number(self) -> None:
        number(self.db)
        self.numbered = list(self.written)  # One after the other: committed in the order of writing.

    def consume(self, category: str | None, limit: int) -> None:
        seen: list[str] = []

        def handle(tx: Tx, event: events.Event) -> None:
            tx.add(f"handled/{category}/{event.id}", 1)

        start = self.places.get(category, 0)
        todo = [
            (n, event) for n, event in enumerate(self.numbered, start=1)
            if n > start and (category is None or event.partition("/")[0] == category)
        ][:limit]  # fmt: skip
        done = self.handle.run(events.consume, f"s/{category}", handle, category=category, limit=limit)
        assert done.handled == len(todo)
        self.places[category] = todo[-1][0] if todo else start
        assert done.position == self.places[category]
        seen = [event for _, event in todo]
        self.handled.setdefault(category, []).extend(seen)
        for event in seen:
            assert self.handle.run(lambda tx, event=event: tx.total(f"handled/{category}/{event}")) == 1

    def read(self, stream: str, after: int, limit: int) -> None:
        page = self.handle.run(events.read_stream, stream, after=after, limit=limit)
        assert [event.id for event in page.items] == self.streams.get(stream, [])[after : after + limit]
        assert (page.after is not None) == (len(self.streams.get(stream, [])) > after + limit)

    def check(self) -> None:
        found = self.handle.run(events.read_all, limit=1_000).items
        check_order(found)
        assert [event.id for event in found] == self.numbered
        assert self.handle.run(events.head) == len(self.numbered)
        for category in ("order", "mail", "x"):
            ids = [event.id for event in self.handle.run(events.read_category, category, limit=1_000).items]
            assert ids == [event for event in self.numbered if event.partition("@")[0].partition("/")[0] == category]


@settings(max_examples=25)
@given(actions=st.lists(ACTIONS, max_size=25))
def test_any_sequence_goes_as_the_lists_say(db: Database, actions: list[tuple[Any, ...]]) -> None:
    model = Model(db)
    for name, *arguments in actions:
        getattr(model, name)(*arguments)
    model.check()
    model.number()
    model.check()
