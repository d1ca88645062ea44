"""Event streams: everything once, in order, over reconnections; bounded; ended when the server drains."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import Any, Self

import pytest
from http_calls import Served, bearer_for, serving
from waiting import until

import onefold
from onefold import Database, events, tokens
from onefold.messaging.events import NewEvent
from onefold.runtime import Supervisor, all_loops
from onefold.server import stream


class Subscriber:
    """Reads an event stream line by line."""

    def __init__(self, server: Served, target: str = "/v1/events", *, last: int | None = None, token: str = "") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        headers = {"authorization": f"Bearer {token or server.token}", "accept": "text/event-stream"}
        if last is not None:
            headers["last-event-id"] = str(last)
        self._connection.request("GET", target, headers=headers)
        self.answer = self._connection.getresponse()

    def lines(self) -> list[str]:
        """One block of lines; empty at the end."""
        found = []
        while (line := self.answer.readline()) not in {b"\n", b""}:
            found.append(line.decode().rstrip("\n"))
        return found

    def event(self) -> tuple[int, dict[str, Any]]:
        """The next event: its id and data."""
        while True:
            lines = dict(line.split(": ", 1) for line in self.lines() if not line.startswith(":"))
            if "data" in lines:
                return int(lines["id"]), json.loads(lines["data"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


@pytest.fixture
def live(db_url: str) -> Any:
    """A served database with its loops: PostgreSQL's events need their sequencer."""
    with onefold.connect(db_url) as db, Supervisor(db, all_loops()), serving(db) as server:
        yield db, server


def append(db: Database, *numbers: int, stream_name: str = "order/7") -> None:
    for number in numbers:
        db.run(events.append, stream_name, NewEvent("order.placed", {"n": number, "text": "a\nb\r\u2028"}))


def test_old_and_new_events_come_in_order_with_their_ids(live: tuple[Database, Served]) -> None:
    db, server = live
    append(db, 1, 2)
    with Subscriber(server) as subscriber:
        assert subscriber.answer.headers["content-type"] == "text/event-stream"
        assert [subscriber.event()[0] for _ in range(2)] == [1, 2]
        append(db, 3, 4, 5)
        seen = [subscriber.event() for _ in range(3)]
    assert [(cursor, event["data"]["n"], event["position"]) for cursor, event in seen] == [(3, 3, 3), (4, 4, 4), (5, 5, 5)]
    assert seen[0][1]["data"]["text"] == "a\nb\r\u2028"


def test_who_reconnects_misses_none_and_gets_none_twice(live: tuple[Database, Served]) -> None:
    db, server = live
    writer = threading.Thread(target=append, args=(db, *range(1, 41)))
    writer.start()
    seen: list[int] = []
    while len(seen) < 40:
        with Subscriber(server, "/v1/events?limit=3", last=seen[-1] if seen else None) as subscriber:
            seen += [subscriber.event()[0] for _ in range(min(7, 40 - len(seen)))]
    writer.join()
    assert seen == list(range(1, 41))


def test_one_stream_and_one_category_can_be_followed(live: tuple[Database, Served]) -> None:
    db, server = live
    append(db, 1, stream_name="invoice/1")
    append(db, 2, stream_name="order/1")
    append(db, 3, stream_name="order/2")
    with Subscriber(server, "/v1/events/category?category=order") as subscriber:
        assert [subscriber.event()[1]["data"]["n"] for _ in range(2)] == [2, 3]
    with Subscriber(server, "/v1/events/stream?stream=order/2") as subscriber:
        assert subscriber.event()[0] == 1
        append(db, 4, stream_name="order/2")
        assert subscriber.event()[0] == 2


def test_a_bad_request_is_a_problem_and_no_stream(live: tuple[Database, Served]) -> None:
    _, server = live
    for target, last, status in [("/v1/events?limit=0", None, 400), ("/v1/events?after=x", None, 400), ("/v1/events", -1, 400)]:
        with Subscriber(server, target, last=last) as subscriber:
            assert subscriber.answer.status == status, target
            assert subscriber.answer.headers["content-type"] == "application/problem+json"


def test_the_number_of_subscribers_is_bounded(db: Database) -> None:
    with serving(db, subscribers_max=1) as server:
        with Subscriber(server) as first:
            assert first.answer.status == 200
            with Subscriber(server) as second:
                assert second.answer.status == 503

        def admitted() -> bool:
            with Subscriber(server) as third:
                return third.answer.status == 200

        until(admitted, "a free place")  # Once the server saw the client go.


def test_silence_is_broken_by_heartbeats(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(stream, "POLL_S", 0.02)
    with serving(db) as server, Subscriber(server) as subscriber:
        assert subscriber.lines() == ["retry: 1000"]
        assert [subscriber.lines() for _ in range(3)] == [[":"]] * 3


def test_a_revoked_token_loses_its_stream(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "RECHECK_S", 0.05)
    monkeypatch.setattr(stream, "POLL_S", 0.02)
    token = bearer_for(db)
    with serving(db) as server, Subscriber(server, token=token) as subscriber:
        assert subscriber.lines() == ["retry: 1000"]
        db.run(tokens.revoke, tokens.parse(token)[0])  # type: ignore[index]
        while subscriber.lines():
            pass
        assert subscriber.answer.isclosed() or subscriber.answer.read() == b""


def test_draining_ends_the_streams_at_once(db: Database) -> None:
    with serving(db) as server:
        with Subscriber(server) as subscriber:
            assert subscriber.lines() == ["retry: 1000"]
            started = time.monotonic()
            server.stop()
            while subscriber.lines():
                pass
    assert time.monotonic() - started < 4, "the drain waited for the stream"
