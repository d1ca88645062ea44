"""Streams: appending, expected versions, reading, kinds. On both engines."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from events_kinds import Paid, Placed, check_order, everything, number, place

import onefold
from onefold import Conflict, Database, Doomed, Invalid, NotFound, Retry, Tx, events
from onefold.core.clock import FakeClock
from onefold.core.codec import PAYLOAD_BYTES_MAX


def test_an_append_answers_ids_and_the_version_and_no_position(db: Database) -> None:
    first = db.run(events.append, "order/7", Placed(1), Paid(990))
    assert first == events.Appended(("order/7@1", "order/7@2"), 2)
    assert db.run(events.append, "order/7", Placed(2)).id == "order/7@3"
    assert not hasattr(first, "position")
    assert db.run(events.version_of, "order/7") == 3
    assert db.run(events.version_of, "order/8") == 0


def test_a_stream_reads_in_order_and_shows_the_transaction_its_own(db: Database) -> None:
    def both(tx: Tx) -> list[Any]:
        place(tx, "order/7", 1, 2)
        place(tx, "order/8", 9)
        return [event.open(Placed).n for event in events.read_stream(tx, "order/7").items]

    assert db.run(both) == [1, 2]
    page = db.reader().run(events.read_stream, "order/7", limit=1)
    assert [event.id for event in page.items] == ["order/7@1"]
    assert page.after == "1"
    rest = db.reader().run(events.read_stream, "order/7", after=page.after)
    assert [event.id for event in rest.items] == ["order/7@2"]
    assert rest.after is None
    assert db.run(events.read_stream, "nobody").items == []


def test_an_event_carries_what_was_given(db: Database, clock: FakeClock) -> None:
    request = db.run(events.append, "order/7", Placed(5), causation="request/1", correlation="chain/1")
    cause = db.run(events.read_stream, "order/7").items[0]
    assert (cause.id, cause.causation, cause.correlation) == (request.id, "request/1", "chain/1")
    assert (cause.kind, cause.kind_version, cause.version, cause.stream) == ("order.placed", 1, 1, "order/7")
    assert bytes(cause.data) == b'{"n":5,"saw":0}'
    if db.dialect == "sqlite":
        assert cause.at_ms == clock.now_ms()
    db.run(events.append, "mail/1", Paid(1), causation=cause)
    effect = db.run(events.read_stream, "mail/1").items[0]
    assert (effect.causation, effect.correlation) == ("order/7@1", "chain/1")
    db.run(events.append, "mail/2", Paid(1), causation=effect)
    chain = db.run(events.read_correlation, "chain/1")
    assert [event.id for event in chain] == ["order/7@1", "mail/1@1", "mail/2@1"]


def test_a_cause_without_correlation_begins_the_chain(db: Database) -> None:
    db.run(events.append, "order/7", Placed())
    cause = db.run(events.read_stream, "order/7").items[0]
    db.run(events.append, "mail/1", Paid(1), causation=cause)
    assert db.run(events.read_stream, "mail/1").items[0].correlation == cause.id


def test_the_expected_version_decides(db: Database) -> None:
    db.run(events.append, "order/7", Placed(), expected="absent")
    db.run(events.append, "order/7", Placed(), expected=1)
    db.run(events.append, "order/7", Placed(), expected="any")
    for expected in ("absent", 0, 1, 2, 4):
        with pytest.raises(Conflict) as caught:
            db.run(events.append, "order/7", Placed(), expected=expected)
        assert caught.value.code == "version"
        assert caught.value.facts["actual"] == 3
    with pytest.raises(Conflict) as caught:
        db.run(events.append, "order/9", Placed(), expected=2)
    assert (caught.value.code, caught.value.facts["actual"]) == ("version", 0)
    assert db.run(events.version_of, "order/9") == 0
    assert db.run(events.append, "order/9", Placed(), expected=0).version == 1


def test_a_refused_append_cannot_commit_half(db: Database) -> None:
    db.run(place, "order/7")

    def swallow(tx: Tx) -> None:
        place(tx, "order/8")
        try:
            events.append(tx, "order/7", Placed(), expected="absent")
        except Conflict:
            return

    with pytest.raises(Doomed):
        db.run(swallow)
    assert db.run(events.version_of, "order/8") == 0


def test_a_refused_append_in_a_savepoint_is_undone_alone(db: Database) -> None:
    def attempt(tx: Tx) -> int:
        place(tx, "order/8")
        try:
            with tx.savepoint():
                events.append(tx, "order/9", Placed(), expected=5)  # Writes, sees that it must not, undoes.
        except Conflict:
            return events.version_of(tx, "order/9")
        return -1

    assert db.run(attempt) == 0
    number(db)
    assert [event.id for event in everything(db)] == ["order/8@1"]


def test_all_events_are_numbered_in_one_order_without_gaps(db: Database) -> None:
    for turn in range(4):
        db.run(place, f"order/{turn % 2}", turn, turn)
        db.run(place, f"mail/{turn % 3}", turn)
    number(db)
    found = everything(db)
    assert len(found) == 12
    check_order(found)
    assert db.run(events.head) == 12
    category = db.run(events.read_category, "mail", limit=3)
    assert [event.stream for event in category.items] == ["mail/0", "mail/1", "mail/2"]
    rest = db.run(events.read_category, "mail", after=category.after or 0)
    assert [event.id for event in rest.items] == ["mail/0@2"]
    assert db.run(events.read_category, "nothing").items == []
    assert [db.run(events.position_of, event.id) for event in found] == list(range(1, 13))


def test_what_was_rolled_back_leaves_no_gap(db: Database) -> None:
    def fail(tx: Tx) -> None:
        place(tx, "order/1", 1, 2, 3)
        raise ZeroDivisionError

    db.run(place, "order/1")
    with pytest.raises(ZeroDivisionError):
        db.run(fail)
    db.run(place, "order/1")
    number(db)
    check_order(everything(db))
    assert db.run(events.head) == 2


def test_spaces_are_numbered_for_themselves(db: Database) -> None:
    for name in ("a", "b", "a"):
        db.at(name).run(place, "order/1")
    number(db)
    for name, count in (("a", 2), ("b", 1), ("c", 0)):
        found = everything(db.at(name))
        check_order(found)
        assert len(found) == count == db.at(name).run(events.head)


def test_a_category_is_what_stands_before_the_first_slash(db: Database) -> None:
    for stream in ("order/7/lines", "order", "orders/7", "/odd", "ö/1"):
        db.run(place, stream)
    number(db)
    names = [event.stream for event in db.run(events.read_category, "order").items]
    assert names == ["order/7/lines", "order"]
    assert [event.stream for event in db.run(events.read_category, "").items] == ["/odd"]
    assert [event.id for event in db.run(events.read_category, "ö").items] == ["ö/1@1"]


def test_a_thousand_events_in_one_append(db: Database) -> None:
    done = db.run(place, "order/7", *range(events.ops.EVENTS_MAX))
    assert done.version == len(done.ids) == 1_000
    number(db)
    found = everything(db)
    check_order(found)
    assert [event.open(Placed).n for event in found] == list(range(1_000))


BAD: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("", (Placed(),), {}),
    ("x" * 201, (Placed(),), {}),
    ("a\0", (Placed(),), {}),
    ("order/1", (), {}),
    ("order/1", (Placed(),) * 1_001, {}),
    ("order/1", (events.NewEvent("order.placed", {"x": object()}),), {}),
    ("order/1", (events.NewEvent("Bad Kind", {}),), {}),
    ("order/1", (events.NewEvent("big", {"x": "x" * PAYLOAD_BYTES_MAX}),), {}),
    ("order/1", (events.NewEvent("order.placed", {}, 0),), {}),
    ("order/1", (Placed(),), {"expected": -1}),
    ("order/1", (Placed(),), {"expected": "none"}),
    ("order/1", (Placed(),), {"expected": 2**60}),
    ("order/1", (Placed(),), {"expected": 1.0}),
    ("order/1", (Placed(),), {"causation": ""}),
    ("order/1", (Placed(),), {"correlation": "x" * 251}),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input_is_refused_before_anything_is_written(db: Database, case: int) -> None:
    stream, payload, options = BAD[case]
    with pytest.raises(Invalid):
        db.run(lambda tx: events.append(tx, stream, *payload, **options))
    assert db.run(lambda tx: tx.all("SELECT stream FROM onefold.events WHERE space = :space")) == []


def test_a_class_without_a_name_is_refused(db: Database) -> None:
    class Nameless(msgspec.Struct, frozen=True):
        n: int

    class Heir(Placed, frozen=True):
        pass

    for event in (Nameless(1), Heir()):
        with pytest.raises(Invalid):
            db.run(events.append, "order/1", event)
    with pytest.raises(Invalid):

        @events.kind("order.thawed")
        class Thawed(msgspec.Struct):
            n: int


def test_old_events_are_read_in_todays_shape(db: Database) -> None:
    @events.kind("seat.sold", version=3, upcast=lambda data, version: {"seat": data["place"], "from_version": version})
    class Sold(msgspec.Struct, frozen=True):
        seat: str
        from_version: int = 3

    @events.kind("seat.sold")
    class Ancient(msgspec.Struct, frozen=True):
        place: str

    db.run(lambda tx: events.append(tx, "hall/1", Ancient("A1"), Sold("A2")))
    old, new = db.run(events.read_stream, "hall/1").items
    assert old.open(Sold) == Sold("A1", 1)
    assert new.open(Sold) == Sold("A2")
    assert new.match(Placed, Sold)
    assert not new.match(Placed)
    for reader, event, code in ((Ancient, new, "kind_newer"), (Placed, new, "kind")):
        with pytest.raises(Invalid) as caught:
            event.open(reader)
        assert caught.value.code == code
    db.run(events.append, "hall/2", events.NewEvent("seat.sold", {"seat": 7}, 3))
    with pytest.raises(Invalid) as caught:
        db.run(events.read_stream, "hall/2").items[0].open(Sold)
    assert caught.value.code == "misfit"


def test_json_comes_in_without_classes(db: Database) -> None:
    done = db.run(events.append_json, "order/7", [events.NewEvent("order.placed", {"n": 4})], expected="absent")
    assert done.id == "order/7@1"
    assert db.run(events.read_stream, "order/7").items[0].open(Placed) == Placed(4)


def test_the_id_of_an_event_names_it(db: Database) -> None:
    db.run(place, "mail@example/1")
    assert db.run(events.position_of, "mail@example/1@1") in {1, None}
    with pytest.raises(NotFound):
        db.run(events.position_of, "mail@example/1@2")
    for bad in ("", "order/7", "@1", "order/7@x", "order/7@" + "9" * 40, "order/7@-1"):
        with pytest.raises(Invalid):
            db.run(events.position_of, bad)


def test_facts_and_wakes_tell_of_an_append(db: Database) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiter = db.waiter("events")
        number(db)
        woken = threads.submit(waiter.wait, 20)
        db.run(place, "order/7")
        number(db)
        assert woken.result(20)
        waiter.close()


def test_waiting_for_an_event_ends_when_it_is_numbered(db: Database) -> None:
    done = db.run(place, "order/7", 1, 2)
    if db.dialect == "postgres":
        with pytest.raises(Retry) as caught:
            events.wait_for(db, done.id, timeout_ms=0)
        assert caught.value.code == "timeout"
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(events.wait_for, db, done.id, timeout_ms=20_000)
        number(db)
        assert waiting.result(20) == 2
    with pytest.raises(NotFound):
        events.wait_for(db, "order/7@3", timeout_ms=0)


@pytest.mark.parametrize("level", ["read_committed", "serializable"])
def test_of_concurrent_appends_upon_one_version_one_wins(db_url: str, level: Any) -> None:
    turns, callers = 12, 6

    def decide(tx: Tx) -> bool:
        version = events.version_of(tx, "order/7")
        events.append(tx, "order/7", Placed(saw=version), expected=version)
        return True

    with onefold.connect(db_url) as db, ThreadPoolExecutor(callers) as threads:
        handle = db.options(isolation=level)
        conflicts: list[int] = []

        def caller(_: int) -> None:
            for _ in range(turns):
                while True:
                    try:
                        handle.run(decide)
                        break
                    except Conflict as error:
                        assert error.code == "version"
                        conflicts.append(1)
                    except Retry:
                        conflicts.append(1)

        list(threads.map(caller, range(callers)))
        number(db)
        found = everything(db)
    check_order(found)
    assert len(found) == turns * callers
    assert all(event.open(Placed).saw == event.version - 1 for event in found)


@pytest.mark.parametrize("level", ["read_committed", "serializable"])
def test_a_stale_decision_is_refused(db_url: str, level: Any) -> None:
    """No reading in the same transaction: the number was decided upon long before."""
    with onefold.connect(db_url) as db, ThreadPoolExecutor(8) as threads:
        handle = db.options(isolation=level)

        def attempt(n: int) -> bool:
            try:
                handle.run(events.append, "order/7", Placed(n), expected="absent" if level == "serializable" else 0)
            except Conflict as error:
                return error.code != "version"
            return True

        assert sum(threads.map(attempt, range(16))) == 1
        assert db.run(events.version_of, "order/7") == 1
