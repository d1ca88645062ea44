"""Subscriptions: place and effects in one commit, failures, dead letters. On both engines."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from events_kinds import Paid, Placed, number, place

import onefold
from onefold import Conflict, Database, Invalid, NotFound, Retry, Tx, events
from onefold.core.clock import FakeClock
from onefold.messaging.events import consuming

WAIT_S = 30


@pytest.fixture
def later(db: Database, clock: FakeClock) -> Callable[[], None]:
    """Let the pause after a failure pass: the clock is moved, or the row on PostgreSQL."""

    def pass_by() -> None:
        clock.advance(100_000)
        if db.dialect == "postgres":
            db.run(lambda tx: tx.run("UPDATE onefold.event_subscriptions SET retry_at_ms = 0 WHERE space = :space"))

    return pass_by


def note(tx: Tx, event: events.Event) -> None:
    """An effect that tells which event in which order."""
    events.append(tx, "notes", Paid(event.position or 0))


def noted(db: Database) -> list[int]:
    return [event.open(Paid).cents for event in db.run(events.read_stream, "notes", limit=1_000).items]


def picky(*bad: str) -> Callable[[Tx, events.Event], None]:
    """A handler that does its work, then fails for the events of these ids."""

    def handle(tx: Tx, event: events.Event) -> None:
        note(tx, event)
        if event.id in bad:
            raise ValueError(event.id)

    return handle


def test_effects_and_place_commit_together(db: Database) -> None:
    for n in range(5):
        db.run(place, "order/1", n)
    number(db)
    first = db.run(events.consume, "notes", note, category="order", limit=3)
    assert (first.handled, first.position, first.more) == (3, 3, True)

    def crash(tx: Tx) -> None:
        events.consume(tx, "notes", note, category="order")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        db.run(crash)
    assert noted(db) == [1, 2, 3]
    assert db.run(events.subscription_of, "notes").position == 3
    second = db.run(events.consume, "notes", note, category="order")
    assert (second.handled, second.position, second.more) == (2, 5, False)
    assert db.run(events.consume, "notes", note, category="order") == events.Consumed(0, 5)
    assert noted(db) == [1, 2, 3, 4, 5]


def test_a_subscription_sees_its_category_and_kinds_only(db: Database) -> None:
    db.run(place, "order/1")
    db.run(events.append, "mail/1", Paid(7))
    db.run(events.append, "order/2", Paid(8))
    number(db)
    done = db.run(events.consume, "paid", note, kinds=[Paid])
    assert (done.handled, done.position) == (2, 3)
    assert noted(db) == [2, 3]
    assert db.run(events.consume, "mail", note, category="mail").handled == 1
    with pytest.raises(Conflict) as caught:
        db.run(events.consume, "mail", note, category="order")
    assert caught.value.code == "filter"


def test_a_subscription_starts_where_it_is_told(db: Database) -> None:
    for n in range(3):
        db.run(place, "order/1", n)
    number(db)
    assert db.run(lambda tx: events.subscribe(tx, "late", category="order", after=events.head(tx))) is True
    assert db.run(events.subscribe, "late", category="order") is False
    assert db.run(events.consume, "late", note, category="order").handled == 0
    db.run(place, "order/1", 4)
    number(db)
    assert db.run(events.consume, "late", note, category="order").position == 4
    with pytest.raises(Conflict):
        db.run(events.subscribe, "late", category="mail")


def test_a_failing_event_stops_its_subscription_for_a_while(db: Database, later: Callable[[], None]) -> None:
    for n in range(4):
        db.run(place, f"order/{n}", n)
    number(db)
    handle = picky("order/2@1")
    done = db.run(events.consume, "notes", handle, category="order")
    assert (done.handled, done.position, done.retry_in_ms, done.error) == (2, 2, 1_000, "ValueError: order/2@1")
    assert noted(db) == [1, 2]  # The effects of the one that failed are undone, those before it stay.
    waiting = db.run(events.consume, "notes", handle, category="order")
    assert waiting.handled == 0
    assert 0 < waiting.retry_in_ms <= 1_000
    later()
    again = db.run(events.consume, "notes", handle, category="order")
    assert (again.handled, again.retry_in_ms) == (0, 2_000)
    assert db.run(events.subscription_of, "notes").attempts == 2
    later()
    assert db.run(events.consume, "notes", note, category="order").handled == 2
    assert noted(db) == [1, 2, 3, 4]
    assert db.run(events.subscription_of, "notes").attempts == 0


def test_an_error_that_cannot_be_said_is_a_failure_like_others(db: Database) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise LookupError

    def fails(_tx: Tx, _event: events.Event) -> None:
        raise Mute

    db.run(place, "order/1", 1)
    number(db)
    done = db.run(events.consume, "notes", fails)
    assert (done.handled, done.retry_in_ms, done.error) == (0, 1_000, "Mute")


def test_a_poisoned_event_is_parked_and_its_stream_behind_it(db: Database, later: Callable[[], None]) -> None:
    for n in range(3):
        for stream in ("order/a", "order/b"):
            db.run(place, stream, n)
    number(db)
    handle = picky("order/a@2")
    for attempt in range(3):
        done = db.run(events.consume, "notes", handle, category="order", attempts_max=3)
        assert done.parked == (attempt == 2)
        later()
    done = db.run(events.consume, "notes", handle, category="order", attempts_max=3)
    assert (done.handled, done.parked, done.position) == (2, 1, 6)
    assert noted(db) == [1, 2, 4, 6]  # b goes on; a's third waits behind a's second.
    parked = db.run(events.list_parked, "notes").items
    assert [(p.position, p.stream, p.attempts) for p in parked] == [(3, "order/a", 3), (5, "order/a", 0)]
    assert parked[0].error == "ValueError: order/a@2"
    db.run(place, "order/a", 9)
    number(db)
    assert db.run(events.consume, "notes", handle, category="order").parked == 1
    assert db.run(events.subscription_of, "notes").parked == 3

    still = db.run(events.retry_parked, "notes", handle)
    assert (still.handled, still.error) == (0, "ValueError: order/a@2")
    assert [p.attempts for p in db.run(events.list_parked, "notes").items] == [4, 0, 0]
    done = db.run(events.retry_parked, "notes", note, stream="order/a", limit=2)
    assert (done.handled, done.more) == (2, True)
    assert db.run(events.retry_parked, "notes", note).handled == 1
    assert noted(db) == [1, 2, 4, 6, 3, 5, 11]  # 7 to 10 are the notes themselves.
    assert db.run(events.subscription_of, "notes").parked == 0
    db.run(place, "order/a", 10)
    number(db)
    assert db.run(events.consume, "notes", note, category="order").handled == 1


def test_a_parked_stream_may_be_given_up(db: Database) -> None:
    db.run(place, "order/a", 1, 2)
    number(db)
    db.run(events.consume, "notes", picky("order/a@1"), category="order", attempts_max=1)
    db.run(events.consume, "notes", note, category="order")
    assert db.run(events.drop_parked, "notes", stream="order/b") == 0
    assert db.run(events.drop_parked, "notes", stream="order/a") == 2
    db.run(place, "order/a", 3)
    number(db)
    assert db.run(events.consume, "notes", note, category="order").handled == 1
    assert noted(db) == [3]


def parked_streams(db: Database) -> None:
    """Two streams of two events each, all put aside."""
    for stream in ("order/a", "order/b"):
        db.run(place, stream, 1, 2)
    number(db)
    for _ in range(3):
        db.run(events.consume, "notes", picky("order/a@1", "order/b@1"), category="order", attempts_max=1)
    assert db.run(events.subscription_of, "notes").parked == 4


def test_parked_events_are_tried_again_when_somebody_asks(db: Database) -> None:
    parked_streams(db)
    assert db.run(events.consume, "notes", note, category="order") == events.Consumed(0, 4)  # Nobody asked.
    assert db.run(events.request_retry, "notes", stream="order/b") == 1
    assert db.run(events.request_retry, "notes", stream="order/b") == 1
    assert [one.stream for one in db.run(events.list_retries, "notes").items] == ["order/b"]
    done = db.run(events.consume, "notes", note, category="order", limit=1)
    assert (done.handled, done.position, done.more) == (1, 4, True)
    assert db.run(events.consume, "notes", note, category="order").handled == 1
    assert noted(db) == [3, 4]
    assert db.run(events.list_retries, "notes").items == []
    assert db.run(events.consume, "notes", note, category="order").handled == 0
    assert [one.stream for one in db.run(events.list_parked, "notes").items] == ["order/a", "order/a"]


def test_what_fails_once_more_stays_parked_and_is_not_asked_for_again(db: Database) -> None:
    parked_streams(db)
    assert db.run(events.request_retry, "notes") == 2
    handle = picky("order/a@1")
    steps = [db.run(events.consume, "notes", handle, category="order") for _ in range(3)]
    assert [(step.handled, step.error) for step in steps] == [(0, "ValueError: order/a@1"), (2, None), (0, None)]
    parked = db.run(events.list_parked, "notes").items
    assert [(one.stream, one.attempts) for one in parked] == [("order/a", 2), ("order/a", 0)]
    assert db.run(events.list_retries, "notes").items == []


def test_a_retry_that_takes_too_long_is_blamed_on_its_own_event(db: Database) -> None:
    parked_streams(db)
    db.run(place, "order/c")
    number(db)
    db.run(events.request_retry, "notes", stream="order/b")
    done = db.run(events.fail_next, "notes", error="too long", attempts_max=1)
    assert (done.parked, done.error) == (0, "RuntimeError: too long")
    assert db.run(events.list_retries, "notes").items == []
    assert [(one.stream, one.attempts) for one in db.run(events.list_parked, "notes").items if one.attempts > 1] == [("order/b", 2)]
    assert db.run(events.consume, "notes", note, category="order").handled == 1


@pytest.mark.parametrize("end", ["drop", "retry", "remove"])
def test_what_was_asked_for_goes_with_what_was_parked(db: Database, end: str) -> None:
    parked_streams(db)
    db.run(events.request_retry, "notes")
    if end == "drop":
        for stream in ("order/a", "order/b"):
            db.run(events.drop_parked, "notes", stream=stream)
    elif end == "retry":
        db.run(events.retry_parked, "notes", note)
    else:
        db.run(events.remove_subscription, "notes")
    assert db.run(events.list_retries, "notes").items == []
    with pytest.raises(NotFound):
        db.run(events.request_retry, "nobody")


def test_a_subscriber_that_runs_does_what_was_asked_for(db: Database) -> None:
    parked_streams(db)
    seen: list[str] = []
    both = threading.Event()

    def handle(_tx: Tx, event: events.Event) -> None:
        if event.id not in seen:
            seen.append(event.id)
        if len(seen) == 4:
            both.set()

    with events.Subscriber(db, "notes", handle, category="order"):
        db.run(events.request_retry, "notes")
        assert both.wait(WAIT_S)
    assert seen == ["order/a@1", "order/a@2", "order/b@1", "order/b@2"]


def test_parking_is_bounded(db: Database, later: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consuming, "PARKED_MAX", 2)
    db.run(place, "order/a", 1, 2, 3, 4)
    db.run(place, "order/b", 1)
    number(db)
    db.run(events.consume, "notes", picky("order/a@1"), category="order", attempts_max=1)
    for _ in range(3):
        later()
        done = db.run(events.consume, "notes", note, category="order", attempts_max=1)
    assert (done.position, done.retry_in_ms > 0) == (2, True)  # It stops before what it has no room for.
    assert db.run(events.subscription_of, "notes").parked == 2
    assert noted(db) == []
    db.run(events.drop_parked, "notes", stream="order/a")
    later()
    assert db.run(events.consume, "notes", note, category="order").handled == 3


def test_an_error_swallowed_by_the_handler_is_a_failure_of_that_event(db: Database) -> None:
    db.run(place, "order/a", 1, 2, 3)
    number(db)

    def sloppy(tx: Tx, event: events.Event) -> None:
        note(tx, event)
        if event.version == 2:
            try:
                events.append(tx, "order/a", Placed(), expected="absent")
            except Conflict:
                return

    done = db.run(events.consume, "notes", sloppy, category="order")
    assert (done.handled, done.position) == (1, 1)
    assert done.error is not None
    assert done.error.startswith("Doomed")
    assert noted(db) == [1]


def test_a_refused_write_is_blamed_on_its_event(db: Database) -> None:
    """PostgreSQL answers writes without a result later, when another event may be at work."""
    db.run(place, "order/a", 1, 2, 3)
    number(db)

    def handle(tx: Tx, event: events.Event) -> None:
        key = "1" if event.version == 2 else str(event.version)
        tx.run(
            """INSERT INTO onefold.event_parked (space, subscription, pos, stream, attempts, error, at_ms)
               VALUES (:space, 'other', :pos, 'x', 0, '', 0)""",
            pos=int(key),
        )  # fmt: skip

    done = db.run(events.consume, "notes", handle, category="order")
    assert (done.handled, done.position) == (1, 1)
    assert db.run(events.list_parked, "other").items[-1].position == 1


def test_a_retry_is_no_failure_of_the_event(db: Database) -> None:
    db.run(place, "order/a", 1, 2)
    number(db)

    def handle(tx: Tx, event: events.Event) -> None:
        note(tx, event)
        if event.version == 2:
            raise Retry("Not now.")

    with pytest.raises(Retry):
        db.run(events.consume, "notes", handle, category="order")
    assert noted(db) == []
    with pytest.raises(NotFound):
        db.run(events.subscription_of, "notes")


def test_the_list_says_how_far_each_is_behind(db: Database) -> None:
    for n in range(3):
        db.run(place, f"order/{n}")
    db.run(events.append, "mail/1", Paid(1))
    number(db)
    db.run(events.consume, "all", note, limit=1)
    db.run(events.consume, "orders", note, category="order")
    db.run(events.subscribe, "mails", category="mail")
    db.run(events.subscribe, "nothing", category="nothing")
    number(db)
    found = {s.name: (s.category, s.position, s.lag) for s in db.run(events.list_subscriptions).items}
    assert found["orders"] == ("order", 3, 0)
    assert found["mails"] == ("mail", 0, 4)
    assert found["nothing"] == ("nothing", 0, 0)
    assert found["all"][:2] == (None, 1)
    assert found["all"][2] == db.run(events.head) - 1
    page = db.run(events.list_subscriptions, limit=3)
    assert [s.name for s in page.items] == ["all", "mails", "nothing"]
    assert [s.name for s in db.run(events.list_subscriptions, after=page.after).items] == ["orders"]


def test_a_removed_subscription_starts_over(db: Database) -> None:
    db.run(place, "order/a", 1, 2)
    number(db)
    db.run(events.consume, "notes", picky("order/a@1"), category="order", attempts_max=1)
    db.run(events.remove_subscription, "notes")
    with pytest.raises(NotFound):
        db.run(events.remove_subscription, "notes")
    assert db.run(events.list_parked, "notes").items == []
    assert db.run(events.consume, "notes", note).handled == 2


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": 1_001}, {"attempts_max": 0}, {"attempts_max": 101}, {"category": "a/b"}])
def test_bad_input_is_refused(db: Database, options: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        db.run(events.consume, "notes", note, **options)
    with pytest.raises(Invalid):
        db.run(events.consume, "", note)
    with pytest.raises(Invalid):
        db.run(events.subscribe, "notes", after=-1)


@pytest.mark.parametrize("level", ["read_committed", "serializable"])
def test_a_second_consumer_is_told_that_one_is_at_it(postgres: Database, level: Any) -> None:
    postgres.run(place, "order/a", 1, 2)
    number(postgres)
    postgres.run(events.subscribe, "notes")
    reached, go = threading.Event(), threading.Event()

    def slow(tx: Tx, event: events.Event) -> None:
        note(tx, event)
        reached.set()
        assert go.wait(WAIT_S)

    handle = postgres.options(isolation=level)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(handle.run, events.consume, "notes", slow, limit=2)
        assert reached.wait(WAIT_S)
        assert handle.run(events.consume, "notes", note).busy
        go.set()
        assert first.result(WAIT_S).handled == 2
    assert noted(postgres) == [1, 2]


@pytest.mark.parametrize("level", ["read_committed", "serializable"])
def test_many_consumers_of_one_subscription_handle_each_event_once(db_url: str, level: Any) -> None:
    with onefold.connect(db_url) as db, ThreadPoolExecutor(4) as threads:
        for n in range(30):
            db.run(place, f"order/{n % 3}", n)
        number(db)
        handle = db.options(isolation=level)

        def go_on(_: int) -> None:
            while handle.run(events.consume, "notes", note, category="order", limit=4).position < 30:
                pass

        list(threads.map(go_on, range(4)))
        assert noted(db) == list(range(1, 31))


def test_a_subscriber_runs_by_itself_and_a_view_can_be_waited_for(db_url: str) -> None:
    with onefold.connect(db_url) as db:
        with events.Subscriber(db, "notes", note, category="order", limit=2):
            for n in range(5):
                last = db.run(place, "order/a", n)
            number(db)
            assert db.run(events.try_subscription_of, "nobody") is None
            assert events.wait_for(db, last.id, timeout_ms=20_000, subscription="notes") >= 5
            assert len(noted(db)) == 5


def test_an_event_that_takes_too_long_is_parked_alone(db_url: str) -> None:
    """The deadline undoes the whole step; the subscriber then finds out whose fault it was."""
    with onefold.connect(db_url) as db:
        db.run(place, "order/a", 1)
        db.run(place, "order/b", 2)
        db.run(place, "order/c", 3)
        number(db)

        def slow(tx: Tx, event: events.Event) -> None:
            note(tx, event)
            if event.stream == "order/b":
                raise Retry("The deadline passed; the call was undone.", code="deadline")

        subscriber = events.Subscriber(db, "notes", slow, category="order", attempts_max=1)
        for _ in range(6):
            subscriber.step()
        subscriber.stop()
        assert noted(db)[0] == 1
        assert len(noted(db)) == 2
        assert [p.stream for p in db.run(events.list_parked, "notes").items] == ["order/b"]
        assert db.run(events.subscription_of, "notes").lag == 0


def test_waiting_for_a_view_begins_before_the_subscription_does(db: Database) -> None:
    last = db.run(place, "order/a", 1)
    number(db)
    with pytest.raises(Retry) as caught:
        events.wait_for(db, last.id, timeout_ms=0, subscription="notes")
    assert caught.value.code == "timeout"
    db.run(events.consume, "notes", note)
    assert events.wait_for(db, last.id, timeout_ms=0, subscription="notes") == 1
