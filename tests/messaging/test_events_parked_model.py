"""Any sequence of poison, cures, retries and drops: each event is handled once and in its stream's order, or given up."""

from __future__ import annotations

import itertools
from typing import Any

from events_kinds import Placed, number
from hypothesis import given, settings
from hypothesis import strategies as st

from onefold import Database, Tx, events

_spaces = itertools.count(1)

NAME = "totals"
STREAMS = st.sampled_from(["order/a", "order/b", "order/c"])
ACTIONS = st.one_of(
    st.tuples(st.just("append"), STREAMS, st.integers(1, 3)),
    st.tuples(st.just("poison"), STREAMS),
    st.tuples(st.just("cure"), STREAMS),
    st.tuples(st.just("step"), st.integers(1, 4)),
    st.tuples(st.just("ask"), st.one_of(st.none(), STREAMS)),
    st.tuples(st.just("drop"), STREAMS),
)


class Model:
    """Which events were written, handled and given up, in lists."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.handle = db.at(f"parked/{next(_spaces)}")
        self.handle.run(events.subscribe, NAME, category="order")
        self.written: list[str] = []
        self.poisoned: set[str] = set()
        self.dropped: set[str] = set()

    def append(self, stream: str, count: int) -> None:
        self.written += self.handle.run(lambda tx: events.append(tx, stream, *[Placed(n) for n in range(count)])).ids
        number(self.db)

    def poison(self, stream: str) -> None:
        self.poisoned.add(stream)

    def cure(self, stream: str) -> None:
        self.poisoned.discard(stream)

    def step(self, limit: int) -> events.Consumed:
        def handler(tx: Tx, event: events.Event) -> None:
            if event.stream in self.poisoned:
                raise ValueError(event.id)
            # A second handling, or one out of order, is refused, and shows as a poisoned event.
            events.append(tx, f"seen/{event.stream}", Placed(event.version), expected="any")

        return self.handle.run(events.consume, NAME, handler, category="order", limit=limit, attempts_max=1)

    def ask(self, stream: str | None) -> None:
        streams = {one.stream for one in self.parked()}
        wanted = streams if stream is None else streams & {stream}
        assert self.handle.run(events.request_retry, NAME, stream=stream) == len(wanted)

    def drop(self, stream: str) -> None:
        gone = {self.at(one.position) for one in self.parked() if one.stream == stream}
        assert self.handle.run(events.drop_parked, NAME, stream=stream) == len(gone)
        self.dropped |= gone

    def parked(self) -> list[events.Parked]:
        return self.handle.run(events.list_parked, NAME, limit=1_000).items

    def at(self, position: int) -> str:
        return self.handle.run(events.read_all, after=position - 1, limit=1).items[0].id

    def check(self) -> None:
        handled: list[str] = []
        for stream in ("order/a", "order/b", "order/c"):
            versions = [one.open(Placed).n for one in self.handle.run(events.read_stream, f"seen/{stream}", limit=1_000).items]
            assert versions == sorted(set(versions)), stream
            handled += [f"{stream}@{version}" for version in versions]
        parked = [self.at(one.position) for one in self.parked()]
        subscription = self.handle.run(events.subscription_of, NAME)
        assert subscription.parked == len(parked)
        unseen = [
            one.id for one in self.handle.run(events.read_category, "order", after=subscription.position, limit=1_000).items
        ]  # fmt: skip
        assert sorted([*handled, *parked, *self.dropped, *unseen]) == sorted(self.written)
        if not parked:
            assert self.handle.run(events.list_retries, NAME).items == []


@settings(max_examples=20)
@given(actions=st.lists(ACTIONS, max_size=20))
def test_each_event_is_handled_once_and_in_order_or_given_up(db: Database, actions: list[tuple[Any, ...]]) -> None:
    model = Model(db)
    for name, *arguments in actions:
        getattr(model, name)(*arguments)
    model.check()
    model.poisoned.clear()
    model.ask(None)
    for _ in range(200):
        if not model.step(4).more:
            break
    model.check()
    assert model.parked() == []
    assert model.handle.run(events.list_retries, NAME).items == []
