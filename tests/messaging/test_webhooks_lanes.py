"""Whose turn it is: the limits of a lane, its breaker, and slots in turn; with times given by hand."""

from __future__ import annotations

from onefold.messaging.webhooks.delivering import Item, Lane
from onefold.messaging.webhooks.lanes import BREAK_AFTER, PAUSE_S_MAX, RETRY_AFTER_S_MAX, Held, Turns
from onefold.messaging.webhooks.records import Endpoint


def held(name: str, *, count: int = 100, concurrency: int = 2, per_second: int = 0) -> Held:
    one = Held(Lane(0, name, 1), until=1e9)
    endpoint = Endpoint(name, "https://a.example/", (), {}, concurrency, per_second, "k1", 1, 0)
    items = [Item(f"{name}-{number}", 1, 0, "{}") for number in range(count)]
    one.fill(endpoint, [], items, known_before=set(), asked=count)
    return one


def begun(turns: Turns, now: float) -> list[str]:
    """Begin all that may begin; answer whose they are."""
    found = []
    while (one := turns.next(now)) is not None:
        one.begin(now)
        turns.flying += 1
        turns.flying_broken += one.broken
        found.append(one.lane.endpoint_id)
        turns.add(one)
    return found


def test_slots_go_in_turn_and_each_lane_has_its_own_limit() -> None:
    turns = Turns(7)
    for name, concurrency in (("a", 9), ("b", 2), ("c", 9)):
        turns.add(held(name, concurrency=concurrency))
    assert begun(turns, 1.0) == ["a", "b", "c", "a", "b", "c", "a"]


def test_broken_lanes_share_half_of_the_slots() -> None:
    turns = Turns(4)
    for number in range(8):
        broken = held(f"broken-{number}")
        broken.streak = BREAK_AFTER
        turns.add(broken)
    assert begun(turns, 1.0) == ["broken-0", "broken-1"]
    turns.add(held("sound", concurrency=9))
    assert begun(turns, 1.0) == ["sound", "sound"]


def test_the_breaker_opens_pauses_and_closes() -> None:
    one = held("a", concurrency=5)
    for number in range(BREAK_AFTER):
        assert one.may_begin(1.0), number
        one.begin(1.0)
        one.ended(1.0, overloaded=True, retry_after_s=0.0)
    assert one.broken
    assert not one.waiting, "what has not begun is left to the database"
    assert not one.wants(1.4)
    assert one.wants(1.6)
    one.fill(one.endpoint, [], [Item("m1", 1, 0, "{}"), Item("m2", 1, 0, "{}")], known_before=set(), asked=2)
    one.begin(1.6)
    assert not one.may_begin(1.6), "one at a time"
    one.ended(1.6, overloaded=False, retry_after_s=0.0)
    assert one.may_begin(1.6)
    for _ in range(40):
        one.flying += 1
        one.ended(2.0, overloaded=True, retry_after_s=0.0)
    assert one.paused_until == 2.0 + PAUSE_S_MAX


def test_retry_after_stops_the_lane_within_a_bound() -> None:
    one = held("a")
    one.begin(1.0)
    one.ended(1.0, overloaded=True, retry_after_s=1e6)
    assert one.paused_until == 1.0 + RETRY_AFTER_S_MAX


def test_a_rate_is_kept() -> None:
    one = held("a", concurrency=50, per_second=10)
    at, times = 5.0, []
    while at < 8.0:
        if one.may_begin(at):
            one.begin(at)
            one.flying -= 1
            times.append(at)
        at += 0.01
    for first, later in zip(times, times[20:], strict=False):
        assert later - first > 0.99, "at most one second's worth at once, then the rate"
    assert len(times) >= 28


def test_nothing_begins_after_the_lease() -> None:
    one = held("a")
    one.until = 2.0
    assert one.may_begin(1.9)
    assert not one.may_begin(2.0)


def test_what_was_known_when_the_fetch_began_is_not_taken_twice() -> None:
    """A read that began before a commit and ended after it still shows what was noted meanwhile."""
    one = held("a", count=1)
    before = set(one.known)
    item = one.begin(1.0)
    one.known.discard(item.message_id)  # Noted while the read was on its way.
    one.fill(one.endpoint, [], [item], known_before=before, asked=10)
    assert not one.waiting
