"""The middleware under FastAPI, Starlette, Flask and Django, over real connections, on both engines."""

from __future__ import annotations

import http.client
import json
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
from idempotent_apps import FRAMEWORKS, REQUEST_BYTES_MAX, House, Reply, Victim, post, serving
from racing import Step
from waiting import WAIT_S, until

from onefold import Database

Serve = Callable[..., AbstractContextManager[int]]


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture(params=FRAMEWORKS)
def serve(request: pytest.FixtureRequest, house: House, real: Database) -> Serve:
    return partial(serving, request.param, house, real)


def rows(db: Database) -> int:
    return db.run(lambda tx: tx.one("SELECT count(*) FROM onefold.idempotency_keys WHERE space = :space"))[0]


def lapse(db: Database) -> None:
    """Let every lease end now."""
    db.run(lambda tx: tx.run("UPDATE onefold.idempotency_keys SET lease_until_ms = 1 WHERE space = :space"))


def lasting(reply: Reply) -> list[tuple[str, str]]:
    """The headers that are the answer's, in order; the others belong to one exchange."""
    ours = {"date", "server", "set-cookie", "x-trace", "idempotent-replayed", "connection"}
    return [(name, value) for name, value in reply.headers if name not in ours]


@pytest.mark.parametrize("how", ["pay", "empty", "refuse", "chunks"])
def test_a_replay_equals_the_first_answer_byte_for_byte(serve: Serve, house: House, how: str) -> None:
    with serve() as port:
        first = post(port, {"how": how})
        for _ in range(2):
            again = post(port, {"how": how})
            assert (again.line, again.body, lasting(again)) == (first.line, first.body, lasting(first))
            assert again.replayed
            assert again.header("set-cookie") is again.header("x-trace") is None  # Those were the first exchange's.
    assert not first.replayed
    assert first.status == {"pay": 201, "empty": 204, "refuse": 402, "chunks": 200}[how]
    assert how == "empty" or first.header("set-cookie") == "seen=1"
    assert house.numbers == [1]


def test_a_named_header_is_replayed_too(serve: Serve) -> None:
    with serve(keep_headers=["X-Trace"]) as port:
        assert [post(port).header("x-trace") for _ in range(2)] == ["t1", "t1"]


def test_a_duplicate_in_flight_is_409_at_once(serve: Serve, house: House, threads: ThreadPoolExecutor) -> None:
    with serve() as port, Step() as step:
        house.middle = step.stop
        first = threads.submit(post, port)
        assert step.reached.wait(WAIT_S)
        for _ in range(3):
            busy = post(port)
            assert (busy.status, busy.code, busy.header("retry-after")) == (409, "in_flight", "1")
            assert busy.header("content-type") == "application/problem+json"
            assert "ana" not in busy.body.decode()
        assert not first.done()  # They were answered while the first was at work.
        assert post(port, {"how": "refuse"}).status == 422
        step.go.set()
        assert first.result(WAIT_S).status == 201
        assert post(port).replayed
    assert house.numbers == [1]


def test_another_payload_is_422_and_the_same_in_another_order_is_not(serve: Serve, house: House) -> None:
    with serve() as port:
        first = post(port, raw=b'{"how": "pay", "to": {"a": 1, "b": 2}}')
        assert post(port, raw=b'{"to":{"b":2,"a":1},"how":"pay"}').body == first.body
        for other in (b'{"how": "pay", "to": {"a": 1, "b": 3}}', b'{"how": "pay", "to": {"a": 1.0, "b": 2}}'):
            refused = post(port, raw=other)
            assert (refused.status, refused.code) == (422, "idempotency_mismatch")
        assert not post(port, tenant="bob").replayed
        assert not post(port, key="k2").replayed
    assert house.numbers == [1, 1, 1]


def test_a_key_may_be_required_and_has_a_form(serve: Serve, house: House, real: Database) -> None:
    with serve(keys=lambda method, path: "required" if path == "/payments" else "off") as port:
        missing = post(port, key=None)
        assert (missing.status, missing.code) == (400, "idempotency_key_missing")
        for bad in ("", "x" * 256, '"open', "caf\u00e9"):
            refused = post(port, key=bad)
            assert (refused.status, refused.code) == (400, "idempotency_key")
        assert (house.numbers, rows(real)) == ([], 0)
        assert post(port, key='"k"').status == 201
        assert post(port, key="k").replayed  # With quotes and without it is the same key.


def test_without_a_key_or_a_tenant_the_app_is_left_alone(serve: Serve, house: House, real: Database) -> None:
    with serve() as port:
        for options in ({"key": None}, {"tenant": None}, {"key": None}):
            assert post(port, **options).status == 201
    assert (house.numbers, rows(real)) == ([None, None, None], 0)


def test_what_decides_nothing_is_not_stored(serve: Serve, house: House) -> None:
    with serve() as port:
        assert post(port, {"how": "busy"}, key="a").status == 503
        assert post(port, {"how": "raise"}, key="b").status == 500
        assert house.numbers == [1, 1]
        assert post(port, {"how": "pay"}, key="a").status == 422  # The request stays bound to its key.
        for key, how, status in (("a", "busy", 503), ("b", "raise", 500)):
            again = post(port, {"how": how}, key=key)
            assert (again.status, again.replayed) == (status, False)
    assert house.numbers == [1, 1, 2, 2]  # At once, and told that they are not the first.


@pytest.mark.parametrize(("how", "code"), [("large", "answer_too_large"), ("events", "answer_streams")])
def test_an_answer_that_cannot_be_replayed_is_withheld_for_good(
    serve: Serve, house: House, how: str, code: str
) -> None:
    with serve() as port:
        first = post(port, {"how": how})
        assert (first.status, first.code) == (500, code)
        again = post(port, {"how": how})
        assert (again.line, again.body, again.replayed) == (first.line, first.body, True)
        assert post(port, {"how": how}, key=None if how == "large" else "k1").status == (200 if how == "large" else 500)
    assert house.numbers == ([1, None] if how == "large" else [1])


def test_a_request_that_is_too_large_is_refused_before_it_runs(serve: Serve, house: House, real: Database) -> None:
    with serve() as port:
        most = json.dumps({"x": "y" * (REQUEST_BYTES_MAX - 9)}).encode()
        assert len(most) == REQUEST_BYTES_MAX
        refused = post(port, raw=most + b" ")
        assert (refused.status, refused.code) == (413, "body_too_large")
        assert (house.numbers, rows(real)) == ([], 0)
        assert post(port, raw=most).status == 201


def test_a_client_that_goes_away_finds_the_answer_later(serve: Serve, house: House) -> None:
    with serve() as port, Step() as step:
        house.middle = step.stop
        with socket.create_connection(("127.0.0.1", port), WAIT_S) as client:
            client.sendall(
                b"POST /payments HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 2\r\n"
                b"idempotency-key: k1\r\nx-tenant: ana\r\n\r\n{}"
            )
            assert step.reached.wait(WAIT_S)
        step.go.set()
        found = until(lambda: [reply for reply in [post(port)] if reply.status != 409], "the answer")[0]
    assert (found.status, found.replayed) == (201, True)
    assert house.numbers == [1]


def test_a_client_that_goes_away_in_the_middle_of_its_body_leaves_nothing(
    serve: Serve, house: House, real: Database
) -> None:
    with serve() as port:
        with socket.create_connection(("127.0.0.1", port), WAIT_S) as client:
            client.sendall(
                b"POST /payments HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 9\r\n"
                b"idempotency-key: k1\r\nx-tenant: ana\r\n\r\n{}"
            )
            client.shutdown(socket.SHUT_WR)
            client.settimeout(WAIT_S)
            while client.recv(4_096):  # A refusal or nothing, and the end.
                pass
        assert post(port).status == 201
    assert house.numbers == [1]
    assert rows(real) == 1


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_server_killed_between_effect_and_answer_is_taken_over(
    framework: str, house: House, real: Database, threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    effects = tmp_path / "effects"
    with Victim(framework, real.url, effects) as victim:
        asking = threads.submit(post, victim.port)
        assert victim.process.stdout.readline() == "effect\n"
        victim.process.send_signal(signal.SIGKILL)
        with pytest.raises((OSError, http.client.HTTPException)):
            asking.result(WAIT_S)
    assert effects.read_text() == "paid\n"
    with serving(framework, house, real) as port:
        busy = post(port)
        assert (busy.status, busy.code, busy.header("retry-after")) == (409, "in_flight", "1")
        assert house.numbers == []
        lapse(real)
        assert post(port).status == 201
        assert house.numbers == [2]  # It knows that somebody may have paid before it.
        assert post(port).replayed
    assert house.numbers == [2]


def test_a_deposed_request_is_told_to_ask_again(serve: Serve, house: House, real: Database, threads: ThreadPoolExecutor) -> None:
    """The first is slower than its lease: a duplicate takes over and answers, and the late answer is refused."""
    with serve() as port, Step() as step:
        house.middle = lambda: step.stop() if len(house.numbers) == 1 else None
        first = threads.submit(post, port)
        assert step.reached.wait(WAIT_S)
        lapse(real)
        second = post(port)
        assert (second.status, house.numbers) == (201, [1, 2])
        step.go.set()
        late = first.result(WAIT_S)
        assert (late.status, late.code, late.header("retry-after")) == (409, "lost", "1")
        assert post(port).body == second.body
