"""What the app answers: routing, arguments, answers, and every kind of error."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from block_tables import dump
from http_calls import Direct

import onefold
from onefold import Conflict, Database, Denied, Doomed, Invalid, Money, NotFound, Retry, Tx, Unknown
from onefold.core.route import Route
from onefold.server import asgi

ERRORS = {
    "invalid": (400, lambda: Invalid("Bad.", code="bad", limit=3)),
    "denied": (403, lambda: Denied("Not yours.")),
    "not_found": (404, lambda: NotFound("Gone.", name="x")),
    "conflict": (409, lambda: Conflict("Taken.", code="held", holder="pid 1")),
    "mismatch": (422, lambda: Invalid("Other request.", code="idempotency_mismatch")),
    "limited": (429, lambda: Retry("Slowly.", code="rate_limited", retry_after_ms=1_500)),
    "retry": (503, lambda: Retry("Later.", code="queue_full", retry_after_ms=100)),
    "unknown": (504, lambda: Unknown("Who knows.", fn="secret.name")),
    "doomed": (500, lambda: Doomed("Swallowed.")),
    "bug": (500, lambda: ZeroDivisionError("secret detail")),
}  # fmt: skip


def fail(tx: Tx, how: str) -> None:
    """Write a counter, then fail in the way asked for."""
    tx.add("trace", 1)
    error: Exception = ERRORS[how][1]()
    raise error


def echo(tx: Tx, name: str, *, count: int = 3, price: Money | None = None, tags: list[str] = []) -> dict[str, object]:  # noqa: B006
    """Answer the arguments."""
    assert tx.space is not None
    return {"name": name, "count": count, "price": price, "tags": tags}


def nothing(tx: Tx) -> None:
    """Answer nothing."""
    tx.add("nothing", 1)


def maybe(tx: Tx, *, some: bool) -> int | None:
    """Answer something or None."""
    assert tx.space is not None
    return 7 if some else None


def named(name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
    """The same under a name of its own: an operation is called after its function."""

    @functools.wraps(fn)
    def twin(*positional: Any, **by_name: Any) -> Any:
        return fn(*positional, **by_name)

    twin.__name__ = name
    return twin


ROUTES = (
    Route("POST", "/fail", fail, "test:write"),
    Route("GET", "/echo/{name}", echo, "test:read"),
    Route("POST", "/echo/{name}", named("echo_post", echo), "test:write"),
    Route("POST", "/nothing", nothing, "test:write"),
    Route("GET", "/maybe", maybe, "test:read"),
    Route("GET", "/echo/fixed", named("fixed", maybe), "test:read"),
    Route("DELETE", "/echo/{name}", named("echo_delete", echo), "test:write"),
    Route("PUT", "/echo/{name}", named("echo_put", echo), "test:write"),
)


@pytest.fixture
def app(direct_to: Callable[..., Direct]) -> Direct:
    return direct_to(*ROUTES)


def test_every_kind_of_error_is_a_problem_document(app: Direct) -> None:
    before = dump(app.db)
    for how, (status, make) in ERRORS.items():
        reply = app("POST", "/v1/fail", send={"how": how})
        assert reply.status == status, how
        assert reply.headers["content-type"] == "application/problem+json"
        problem = reply.json
        assert problem["status"] == status, how
        assert problem["title"], how
        assert problem["type"], how
        if status != 500:
            assert problem["code"] == make().code  # type: ignore[attr-defined]
        assert "secret" not in reply.body.decode(), "insides leave the server"
        assert "Traceback" not in reply.body.decode()
        assert "holder" not in problem.get("facts", {})
        assert dump(app.db) == before, how


def test_facts_and_the_time_to_wait_are_told(app: Direct) -> None:
    assert app("POST", "/v1/fail", send={"how": "invalid"}).json["facts"] == {"limit": 3}
    assert app("POST", "/v1/fail", send={"how": "limited"}).headers["retry-after"] == "2"
    assert app("POST", "/v1/fail", send={"how": "retry"}).headers["retry-after"] == "1"


def test_an_unexpected_error_is_logged_under_the_id_that_the_client_got(
    app: Direct, caplog: pytest.LogCaptureFixture
) -> None:
    error_id = app("POST", "/v1/fail", send={"how": "bug"}).json["error_id"]
    records = [record for record in caplog.records if getattr(record, "error_id", "") == error_id]
    assert len(records) == 1
    assert records[0].exc_info is not None
    assert app.token not in caplog.text


def test_arguments_come_from_path_query_and_body(app: Direct) -> None:
    reply = app("GET", "/v1/echo/a%2Fb%20c?count=5&tags=x&tags=y")
    assert reply.json == {"name": "a/b c", "count": 5, "price": None, "tags": ["x", "y"]}
    reply = app("POST", "/v1/echo/a", send={"price": {"minor": 100, "currency": "EUR"}})
    assert reply.json == {"name": "a", "count": 3, "price": {"minor": 100, "currency": "EUR"}, "tags": []}
    assert app("DELETE", "/v1/echo/a?count=4").json["count"] == 4
    assert app("PUT", "/v1/echo/a", send={"count": 4}).json["count"] == 4


def test_a_literal_segment_wins_over_a_parameter(app: Direct) -> None:
    assert app("GET", "/v1/echo/fixed?some=true").json == 7


def test_a_whole_number_in_a_query_has_digits_and_perhaps_a_minus(app: Direct) -> None:
    for text in ("0", "-5", "9223372036854775807", "-9223372036854775808"):
        assert app("GET", f"/v1/echo/a?count={text}").json["count"] == int(text)


def test_nothing_is_204_and_none_is_null(app: Direct) -> None:
    reply = app("POST", "/v1/nothing")
    assert (reply.status, reply.body) == (204, b"")
    assert "content-length" not in reply.headers
    assert app("GET", "/v1/maybe?some=false").body == b"null"
    assert app("GET", "/v1/maybe?some=true").body == b"7"


def test_head_is_get_without_the_body(app: Direct) -> None:
    reply = app("HEAD", "/v1/maybe?some=true")
    assert (reply.status, reply.body, reply.headers["content-length"]) == (200, b"", "1")


BAD_REQUESTS: list[tuple[str, str, dict[str, Any], int]] = [
    ("GET", "/v1/none", {}, 404), ("GET", "/", {}, 404), ("GET", "/v1", {}, 404), ("GET", "/v1/", {}, 404),
    ("GET", "/V1/maybe", {}, 404), ("PUT", "/v1/fail", {}, 405), ("BREW", "/v1/maybe", {}, 405),
    ("POST", "/livez", {}, 405),
    ("GET", "/v1/maybe", {}, 400), ("GET", "/v1/maybe?some=perhaps", {}, 400),
    ("GET", "/v1/maybe?some=true&some=false", {}, 400), ("GET", "/v1/maybe?some=true&more=1", {}, 400),
    ("GET", "/v1/echo/%ff", {}, 400), ("GET", "/v1/echo/a?tags=%ff", {}, 400), ("GET", "/v1/echo/a%00b", {}, 400),
    ("GET", "/v1/echo/a?count=9223372036854775808", {}, 400), ("GET", "/v1/echo/a?count=1.5", {}, 400),
    *(("GET", f"/v1/echo/a?count={text}", {}, 400) for text in ("1e3", "1.0", "007", "%2B5", "+5", "5+", "1_0", "0x1F", "", "null", "%D9%A3")),
    ("POST", "/v1/echo/a?count=1", {"send": {}}, 400), ("POST", "/v1/echo/a", {"send": []}, 400),
    ("POST", "/v1/echo/a", {"send": {"name": "b"}}, 400), ("POST", "/v1/echo/a", {"body": b"{"}, 400),
    ("POST", "/v1/echo/a", {"body": b"\xff"}, 400), ("POST", "/v1/echo/a", {"body": b'{"count":1' + b"0" * 30 + b"}"}, 400),
    ("POST", "/v1/echo/a", {"body": b'{"tags":["a\\u0000"]}'}, 400),
    ("POST", "/v1/echo/a", {"body": b'{"tags":' + b"[" * 100_000 + b"]" * 100_000 + b"}"}, 400),
    ("POST", "/v1/echo/a", {"body": b"a=1", "headers": {"content-type": "application/x-www-form-urlencoded"}}, 415),
    ("POST", "/v1/echo/a", {"body": b"{}", "headers": {"content-type": "application/json; charset=latin-1"}}, 415),
    ("POST", "/v1/echo/a", {"body": b"{}", "headers": {"content-encoding": "gzip"}}, 415),
    ("POST", "/v1/echo/a", {"body": b" " * (1 << 20) + b"{}"}, 413),
    ("GET", "/v1/maybe?some=true", {"headers": {"onefold-deadline-ms": "0"}}, 400),
    ("GET", "/v1/maybe?some=true", {"headers": {"onefold-deadline-ms": "1e3"}}, 400),
    ("POST", "/v1/nothing", {"headers": {"idempotency-key": "x" * 256}}, 400),
    ("POST", "/v1/nothing", {"headers": {"idempotency-key": "a\x01b"}}, 400),
]  # fmt: skip


def test_bad_requests_are_refused_before_anything_is_written(app: Direct) -> None:
    before = dump(app.db)
    for method, target, extra, status in BAD_REQUESTS:
        reply = app(method, target, **extra)
        assert (reply.status, reply.json["status"]) == (status, status), (method, target, extra)
        if status == 405:
            assert set(reply.headers["allow"].split(", ")) <= {"GET", "HEAD", "POST", "DELETE", "PUT"}
    assert dump(app.db) == before


def test_a_mounted_app_sees_its_own_paths(app: Direct) -> None:
    assert app("GET", "/v1/maybe?some=true", root_path="/back/end").json == 7
    assert app("GET", "/livez", root_path="/back").status == 200


def test_probes_need_no_token_and_tell_of_draining(app: Direct) -> None:
    assert app("GET", "/livez", token=None).json == {"status": "live"}
    assert app("GET", "/readyz", token=None).json == {"status": "ready"}
    assert app("GET", "/startupz", token=None).json == {"status": "started"}
    app.app.draining = True
    assert app("GET", "/readyz", token=None).status == 503
    assert app("GET", "/livez", token=None).status == 200
    assert app("GET", "/v1/maybe?some=true").json == 7, "requests go on while it drains"


def test_a_closed_database_is_alive_and_not_ready(app: Direct) -> None:
    app.db.close()
    assert app("GET", "/livez", token=None).status == 200
    assert app("GET", "/readyz", token=None).status == 503


def test_too_many_requests_at_once_are_told_to_come_again(direct_to: Callable[..., Direct]) -> None:
    reply = direct_to(*ROUTES, in_flight_max=0)("GET", "/v1/maybe?some=true")
    assert (reply.status, reply.json["code"], reply.headers["retry-after"]) == (503, "overloaded", "1")


def test_a_short_deadline_is_kept(direct_to: Callable[..., Direct]) -> None:
    def endless(tx: Tx) -> int:
        """Count for longer than anybody waits."""
        row = tx.one(
            """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400000000)
               SELECT count(*) FROM n"""
        )
        assert row
        return int(row[0])

    app = direct_to(Route("GET", "/endless", endless, "test:read"))
    reply = app("GET", "/v1/endless", headers={"onefold-deadline-ms": "100"})
    assert (reply.status, reply.json["code"]) == (503, "deadline")


def test_routes_that_do_not_fit_their_function_are_refused_at_the_start(db: Database) -> None:
    def starred(tx: Tx, *names: str) -> None:
        """Take any number."""

    def bare(tx: Tx, name) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        """Say no type."""

    for routes in [
        (Route("GET", "/a/{b}", nothing, "t:r"),),
        (Route("GET", "/a", starred, "t:r"),),
        (Route("GET", "/a", bare, "t:r"),),
        (Route("GET", "/a", nothing, "t:r"), Route("GET", "/a", maybe, "t:r")),
    ]:
        with pytest.raises(Invalid):
            asgi(db, routes=routes)


def test_a_record_of_a_block_is_answered_as_json(direct: Direct) -> None:
    reply = direct("POST", "/v1/tokens", send={"name": "n", "digest": "0" * 64, "rights": ["a:b"]})
    token = msgspec.json.decode(reply.body, type=onefold.tokens.Token)
    page = direct("GET", "/v1/tokens").json
    assert set(page) == {"items", "after"}
    assert token.id in {item["id"] for item in page["items"]}
